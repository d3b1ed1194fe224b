"""Faults, clients and counting: what each kind of client sees when masters die behind a balancer.

namespace.py   a network of its own, in which packets can be dropped
plane.py       the control plane of tests/cluster, and what can be done to its masters
links.py       each master's own way to etcd, which can be made a long one
contenders.py  lbproxy, nginx and HAProxy, each as its operators configure it
programs.py    the clients: two kubectls and three Python libraries, in an environment of their own
kubectls.py, libraries/   what the clients do, again and again; journal.py is what they write down
faults.py      the scenarios
herd.py        hundreds of plain watchers who come back all at once
outage.py      who asks while nobody is there
audit.py, history.py      what the servers say: who asked for what, and what was stored
outcome.py     the counting: pure functions from what clients wrote and servers say to one result
round.py       one scenario behind one balancer
table.py       results as a table; __main__.py is the runner
"""

"""What an accepted lb.yaml is warned of: where, of what, and what to write instead."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme

from lbproxy.control.config_host import Host, this_host
from lbproxy.control.configfile import load, loads
from lbproxy.core.config import Address

PLAIN = """\
listen: 10.0.0.9:8080
mode: http
backends: [10.0.1.10:8080, 10.0.1.11:8080, 10.0.1.12:8080]
"""

FULL = """\
listeners:
  - {bind: 10.0.0.9:6443, mode: tcp, pool: api}
pools:
  api:
    health_check: {verify: false}
    backends: [10.0.1.10:6443, 10.0.1.11:6443]
"""


@dataclass(frozen=True, slots=True)
class Pretended(Host):
    """A host with these addresses."""

    addresses: tuple[str, ...] = ("10.0.0.9", "0.0.0.0")

    def can_bind(self, address: Address) -> bool:
        return address.host in self.addresses

    def is_own(self, address: Address) -> bool:
        return address.host in self.addresses


HOST = Pretended(max_fds=65536, somaxconn=4096, cores=4)


def _said(text: str, host: Host | None = HOST) -> list[str]:
    return [str(warning).removeprefix("lb.yaml:") for warning in loads(text, host=host).warnings]


@pytest.mark.parametrize("text", [PLAIN, FULL])
def test_nothing_to_warn_of(text: str) -> None:
    assert _said(text) == []


# What is added to PLAIN, the line, what is said, and what is advised.
ADDED = [
    ("timeouts: {idle: 10m}", 4, "timeouts.idle: 600 s cuts watches", "write 0 or at least 11m"),
    ("timeouts: {idle: 659.9}", 4, "timeouts.idle: 659.9 s cuts", "write 0 or at least 11m"),
    ("timeouts: {response_header: 30s}", 4, "timeouts.response_header: after 30 s clients get a 504", "at least 60s"),
    ("timeouts:\n  connect: 3s", 5, "timeouts.connect: one silent backend uses up all of retry.deadline (3 s)", "1.5s"),
    ("tcp: {client: {user_timeout: 0}}", 4, "tcp.client.user_timeout: a client whose host vanishes", "10s to 30s"),
    ("tcp: {backend: {user_timeout: 0}}", 4, "tcp.backend.user_timeout: a backend whose host", "10s to 30s"),
    ("balance: ip_hash", 4, "balance: ip_hash sends all IPv4 clients of one /24 to one backend", "source_hash"),
    ("health_check:\n  type: https", 4, "health_check.ca_file: the check verifies no certificate", "ca_file:"),
    ("health_check:\n  type: https", 5, "health_check.type: listener 10.0.0.9:8080 speaks plain HTTP", "type: http,"),
    ("health_check: {type: none}", 4, "health_check.type: a backend that is dead or hangs is found out", "type: https"),
    ("health_check: {fall: 1}", 4, "health_check.fall: a single check that is lost closes every", "write 2 or more"),
    ("health_check: {path: /livez}", 4, "health_check.path: /livez stays 200 while", "write /readyz"),
    ("health_check: {path: '/healthz?verbose'}", 4, "health_check.path: /healthz?verbose stays", "write /readyz"),
    ("http: {trusted_proxies: [10.0.0.1, 0.0.0.0/0]}", 4, "http.trusted_proxies[1]: with 0.0.0.0/0 every", "own addr"),
    ("http: {trusted_proxies: '::/0'}", 4, "http.trusted_proxies: with ::/0 every client", "own addresses"),
    ("workers: 5", 4, "workers: 5 workers take turns on 4 cores", "write auto"),
]


@pytest.mark.parametrize(("added", "line", "words", "advice"), ADDED, ids=[f"{row[2]:.40}" for row in ADDED])
def test_warned_of(added: str, line: int, words: str, advice: str) -> None:
    (said,) = (each for each in _said(PLAIN + added + "\n") if each.startswith(f"{line}: {words}"))
    assert advice in said


@pytest.mark.parametrize(
    "added",
    [
        "timeouts: {idle: 0}",
        "timeouts: {idle: 11m}",
        "timeouts: {response_header: 60s}",
        "timeouts: {connect: 2s}",
        "health_check: {type: https, verify: false, port: 6443}",
        "health_check: {type: tcp, path: /livez}",
        "http: {trusted_proxies: [10.0.0.0/8]}",
        "workers: 4",
    ],
)
def test_not_warned_of(added: str) -> None:
    assert _said(PLAIN + added) == []


# As above, of a change to FULL.
CHANGED = [
    ("pool: api}", "pool: api, timeouts: {idle: 5s}}", 2, "listeners[0].timeouts.idle: 5 s cuts", "11m"),
    ("pool: api}", "pool: api, max_connections: 40000}", 2, "listeners[0].max_connections: max_conn", "or write less"),
    ("pool: api}", "pool: api, backlog: 8192}", 2, "listeners[0].backlog: the kernel cuts 8192 to", "somaxconn=8192`"),
    ("0.9:6443,", "0.8:6443, freebind: false,", 2, "listeners[0].bind: no interface of this host", "freebind: true"),
    (", 10.0.1.11:6443]", "]", 6, "pools.api.backends: there is one backend only", "name every apiserver"),
    (
        "10.0.1.11:6443]",
        "10.0.0.9:6443]",
        6,
        "pools.api.backends[1]: 10.0.0.9:6443 is lbproxy's own",
        "apiserver's own",
    ),
    (
        "10.0.1.11:6443]",
        "{address: 10.0.1.11:6443, state: drain}]",
        6,
        "pools.api.backends: only 10.0.1.10:6443 is in state ready",
        "write `state: ready` for another one",
    ),
    (
        "[10.0.1.10:6443, 10.0.1.11:6443]",
        "\n    - {address: 10.0.1.10:6443, state: maint}\n    - {address: 10.0.1.11:6443, state: drain}",
        6,
        "pools.api.backends: no backend is in state ready: nothing will be served",
        "write `state: ready` for at least one",
    ),
    (
        "  api:\n",
        "  api:\n    retry: {methods: [GET, POST, PATCH]}\n",
        5,
        "pools.api.retry.methods: POST, PATCH may then be executed twice",
        "write [GET, HEAD, OPTIONS]",
    ),
    ("  api:\n", "  api:\n    retry:\n      tries: 1\n", 6, "pools.api.retry.tries: a connection that the first", "0"),
    ("{verify: false}", "{}", 5, "pools.api.health_check.ca_file: the check verifies no", "verify: false if that is"),
]


@pytest.mark.parametrize(("old", "new", "line", "words", "advice"), CHANGED, ids=[f"{row[3]:.50}" for row in CHANGED])
def test_warned_of_in_the_full_form(old: str, new: str, line: int, words: str, advice: str) -> None:
    assert old in FULL
    (said,) = _said(FULL.replace(old, new))
    assert said.startswith(f"{line}: {words}")
    assert advice in said


def test_a_backend_behind_a_listener_on_every_address() -> None:
    text = FULL.replace("bind: 10.0.0.9", "bind: 0.0.0.0").replace("10.0.1.11", "10.0.0.9")
    (said,) = _said(text)
    assert said.startswith("6: pools.api.backends[1]: 10.0.0.9:6443 is lbproxy's own listener 0.0.0.0:6443")
    assert _said(text, replace(HOST, addresses=("0.0.0.0",))) == []


def test_connections_kept_longer_than_an_apiserver_keeps_them() -> None:
    text = FULL.replace("tcp", "http").replace("  api:\n", "  api:\n    idle: {timeout: 90s}\n")
    said = _said(text.replace("{verify", "{type: http, verify"))
    assert [each.partition(": an apiserver")[0] for each in said] == ["5: pools.api.idle.timeout"]
    assert _said(FULL.replace("  api:\n", "  api:\n    idle: {timeout: 90s}\n")) == []  # tcp mode keeps none


def test_a_timeout_of_two_listeners_is_warned_of_once() -> None:
    text = FULL.replace("pools:\n", "  - {bind: 10.0.0.9:6444, mode: tcp, pool: api}\npools:\n")
    assert [each[:8] for each in _said(text + "timeouts: {idle: 1m}\n")] == ["8: timeo"]


def test_few_descriptors() -> None:
    (said,) = _said(PLAIN, replace(HOST, max_fds=1024))
    assert said.startswith("1: 1024 file descriptors (ulimit -Hn) allow 448 connections in each worker")
    assert "LimitNOFILE=" in said


def test_in_the_order_of_the_lines() -> None:
    text = PLAIN.replace("10.0.1.12", "10.0.0.9") + "workers: 9\nbalance: ip_hash\ntimeouts: {idle: 1s}\n"
    assert [each.partition(":")[0] for each in _said(text)] == ["3", "4", "5", "6"]


def test_tls_files_that_no_check_uses(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "lb.yaml").write_text(PLAIN + "health_check:\n  ca_file: ca.crt\n")
    (warning,) = (one for one in load(str(tmp_path / "lb.yaml")).warnings if "ca_file" in one.message)
    assert warning.line == 5
    assert warning.message == "health_check.ca_file: has no effect: the check's type is http; write type: https"


def test_a_token_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    (said,) = _said(PLAIN + f"health_check: {{token_file: {tmp_path}/token}}")
    assert said == "4: health_check.token_file: the token is sent without encryption: the check's type is http"


def test_a_token_for_anybody(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    (said,) = _said(FULL.replace("{verify: false}", f"{{token_file: {tmp_path}/token}}"))
    assert "passes for an apiserver and is shown the token" in said


# -- the real host ---------------------------------------------------------------------------------------------


def test_this_host() -> None:
    host = this_host()
    assert host.max_fds >= 0
    assert host.somaxconn == int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert host.cores >= 1


@pytest.mark.parametrize(
    ("address", "bindable", "own"),
    [
        (Address("", "127.0.0.1", 1), True, True),
        (Address("", "127.9.9.9", 1), True, True),
        (Address("", "0.0.0.0", 1), True, False),
        (Address("", "192.0.2.1", 1), False, False),  # TEST-NET-1: nobody has it
    ],
)
def test_addresses_of_this_host(address: Address, bindable: bool, own: bool) -> None:
    if Path("/proc/sys/net/ipv4/ip_nonlocal_bind").read_text().strip() == "1":
        pytest.skip("net.ipv4.ip_nonlocal_bind is set: any address can be bound here")
    assert this_host().can_bind(address) is bindable
    assert this_host().is_own(address) is own or address.host == "0.0.0.0"


def test_a_family_that_this_host_lacks_is_not_complained_about() -> None:
    assert this_host().can_bind(Address("", "::", 1, "inet6"))
    if not socket.has_ipv6:
        assert not this_host().is_own(Address("", "2001:db8::1", 1, "inet6"))

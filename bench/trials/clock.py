"""Latency by the clock: requests leave at a fixed rate, whether answers come or not.

Each latency is counted from the time at which its request was due, not from when it left: a request that waits for a
free connection or for a busy generator has waited. That leaves no *coordinated omission*, which hides every stall from
a closed loop such as wrk's. What the generator itself adds is in the figures of `direct`.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import deque
from statistics import quantiles

from bench.load import LoadError
from bench.trials.result import Result
from bench.trials.stage import PATIENCE, Stage, close_all

CONNECTIONS = 64
# Requests per second: about what this generator keeps up with while it shares its CPU with the backends. It is a
# quarter of nginx's peak on two cores, not the half that would be asked for with more of them.
RATE = 12_000
REQUEST = b"GET /api/v1/namespaces/default/configmaps/settings HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n"


def latency(stage: Stage) -> Result:
    """The 99th percentile in µs, open loop."""
    total = RATE * (10 if stage.full else 3)
    clients = stage.connect(CONNECTIONS)
    before = stage.cpu_ns()
    try:
        latencies, late = _run(clients, total, 1 / RATE)
    finally:
        close_all(clients)
    used = stage.cpu_ns() - before
    cuts = quantiles(latencies, n=1000)
    details = {
        "p50_us": cuts[499] * 1e6,
        "p999_us": cuts[998] * 1e6,
        "max_us": max(latencies) * 1e6,
        "rate": RATE,
        "generator_late": late,
        "cpu_us_per_request": used / 1000 / total,
    }
    return Result(cuts[989] * 1e6, details, errors=total - len(latencies))


def _run(clients: list[socket.socket], total: int, apart: float) -> tuple[list[float], float]:
    """Every latency in seconds, and the share of requests that left more than a millisecond after they were due."""
    epoll = select.epoll()
    free = deque(sock.fileno() for sock in clients)
    by_fd = {sock.fileno(): sock for sock in clients}
    for sock in clients:
        sock.setblocking(False)
        epoll.register(sock, select.EPOLLIN)
    due_at: dict[int, float] = {}
    latencies: list[float] = []
    start = time.monotonic() + 0.05
    sent = late = 0
    while len(latencies) < total:
        now = time.monotonic()
        while sent < total and free and start + sent * apart <= now:
            fd = free.popleft()
            due_at[fd] = due = start + sent * apart
            late += now - due > 0.001
            by_fd[fd].send(REQUEST)
            sent += 1
        wait = start + sent * apart - time.monotonic() if free and sent < total else 0.1
        # epoll's clock is in milliseconds: below one it is asked without waiting, and latency is not rounded up
        for fd, _events in epoll.poll(wait if wait > 0.001 else 0):
            if not by_fd[fd].recv(65536).startswith(b"HTTP/1.1 200"):
                raise LoadError("an answer was not 200")
            latencies.append(time.monotonic() - due_at[fd])
            free.append(fd)
        if now > start + total * apart + PATIENCE:
            break
    epoll.close()
    return latencies, late / total


def storm(stage: Stage) -> Result:
    """Seconds until 5,000 clients that connect at once have their answers: keepalived moved the address."""
    count = 5_000 if stage.full else 1_000
    before = stage.cpu_ns()
    began = time.monotonic()
    clients, errors = _rush(stage, count)
    took = time.monotonic() - began
    used = stage.cpu_ns() - before
    close_all(clients)
    return Result(took, {"clients": count, "cpu_us_per_client": used / 1000 / count}, errors=errors)


def _rush(stage: Stage, count: int) -> tuple[list[socket.socket], int]:
    """All connects are started before any answer is waited for."""
    epoll = select.epoll()
    clients = []
    waiting = {}
    for number in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((f"127.0.1.{1 + number % 8}", 0))
        if sock.connect_ex(("127.0.0.1", stage.port)) not in (0, errno.EINPROGRESS):
            raise LoadError("connect() failed")
        clients.append(sock)
        waiting[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLOUT | select.EPOLLONESHOT)
    failed = 0
    deadline = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        for fd, events in epoll.poll(1.0):
            sock = waiting[fd]
            try:
                if events & select.EPOLLOUT:
                    sock.send(REQUEST)
                    epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
                    continue
                failed += not sock.recv(65536).startswith(b"HTTP/1.1 200")
            except OSError:
                failed += 1
            del waiting[fd]
    epoll.close()
    return clients, failed + len(waiting)


def slow_reader(stage: Stage) -> Result:
    """MiB by which the contender grows while 20 clients take 64 KiB a second each of a 500 MB body."""
    readers = 20
    before = sum(stage.memory().values())
    clients = stage.connect(readers)
    most = before
    errors = 0
    try:
        for sock in clients:
            sock.sendall(b"GET /endless HTTP/1.1\r\nHost: bench\r\n\r\n")
        for _ in range(8 if stage.full else 3):
            for sock in clients:
                errors += not sock.recv(65536)
            time.sleep(0.5)
            most = max(most, sum(stage.memory().values()))
    finally:
        close_all(clients)
    return Result((most - before) / 2**20, {"readers": readers}, errors=errors)

"""A storm: everybody reconnects at once, because keepalived has moved the address or a master has died."""

from __future__ import annotations

import errno
import select
import socket
import time
from statistics import quantiles

from bench.load import LoadError
from bench.trials.generator import REQUEST, is_right
from bench.trials.origin_process import PATIENCE
from bench.trials.result import Result
from bench.trials.stage import SOURCES, Stage, close_all


def storm(stage: Stage) -> Result:
    """Seconds until 5,000 clients that connect at once have their answers, and how long each of them waits."""
    count = 5_000 if stage.full else 1_000
    before = stage.cpu_ns()
    began = time.monotonic()
    clients, waited, wrong = _rush(stage.port, count)
    took = time.monotonic() - began
    used = stage.cpu_ns() - before
    close_all(clients)
    if len(waited) < 2:
        raise LoadError("nobody was answered")
    cuts = quantiles(waited, n=100)
    details = {
        "clients": count,
        "p50_ms": cuts[49] * 1000,
        "p99_ms": cuts[98] * 1000,
        "cpu_us_per_client": used / 1000 / count,
    }
    return Result(took, details, wrong)


def _rush(port: int, count: int) -> tuple[list[socket.socket], list[float], int]:
    """All connects are started before any answer is waited for. Seconds from each connect to its answer."""
    epoll = select.epoll()
    clients: list[socket.socket] = []
    waiting: dict[int, socket.socket] = {}
    since: dict[int, float] = {}
    received: dict[int, bytes] = {}
    for number in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((f"127.0.1.{1 + number % SOURCES}", 0))
        since[sock.fileno()] = time.monotonic()
        if sock.connect_ex(("127.0.0.1", port)) not in (0, errno.EINPROGRESS):
            close_all([*clients, sock])
            raise LoadError("connect() failed")
        clients.append(sock)
        waiting[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLOUT | select.EPOLLONESHOT)
    waited: list[float] = []
    deadline = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        for fd, events in epoll.poll(1.0):
            sock = waiting[fd]
            try:
                if events & select.EPOLLOUT:
                    sock.send(REQUEST)
                    epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
                    continue
                data = sock.recv(65536)
            except OSError:
                data = b""
            so_far = received[fd] = received.get(fd, b"") + data
            if is_right(so_far):
                waited.append(time.monotonic() - since[fd])
            elif data:
                epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
                continue
            del waiting[fd]
    epoll.close()
    return clients, waited, count - len(waited)

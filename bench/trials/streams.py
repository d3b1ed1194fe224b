"""Watches: what an event costs, and what watches and connections cost that have nothing to say."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

from bench.contenders import open_files
from bench.load import LoadError
from bench.trials.origin import event
from bench.trials.origin_process import PATIENCE
from bench.trials.result import Result
from bench.trials.stage import Stage, ask, close_all
from bench.trials.start import SitsOutError, Starter

TARGET = "/api/v1/pods?watch=true&resourceVersion=100000000&timeoutSeconds=3600"
APART = 0.1  # seconds between events


def events(stage: Stage) -> Result:
    """CPU per event delivered: 1,000 watchers (200 in a quick run), ten events a second to each."""
    watchers, rounds = (1000, 30) if stage.full else (200, 10)
    clients = watch(stage, watchers)
    try:
        expected = [event(number) for number in range(1, rounds + 1)]
        before = stage.cpu_ns()
        stage.origin.emit(rounds, APART)
        right = _receive(clients, expected)
        used = stage.cpu_ns() - before
        stage.origin.answer()
    finally:
        close_all(clients)
    delivered = watchers * rounds
    wrong = watchers - right
    return Result(used / 1000 / delivered, {"events": delivered, "watchers": watchers}, errors=wrong)


def idle_watches(stage: Stage) -> Result:
    """Resident memory per watch that says nothing."""
    return _idle(stage, watches=True)


def idle_connections(stage: Stage) -> Result:
    """Resident memory per connection through which nothing goes."""
    return _idle(stage, watches=False)


def _idle(stage: Stage, *, watches: bool) -> Result:
    count = 5_000 if stage.full else 1_000
    clients, grown = _settled(stage, count, watches=watches)
    close_all(clients)
    return Result(grown / 1024 / count, {"connections": count, "grown_mib": grown / 2**20})


def _settled(stage: Stage, count: int, *, watches: bool) -> tuple[list[socket.socket], int]:
    """So many that have been idle for a while, and by how many bytes the contender has grown."""
    close_all(watch(stage, 50) if watches else stage.connect(50))  # what the first ones make it load is not theirs
    time.sleep(1)
    before = sum(stage.memory().values())
    clients = watch(stage, count) if watches else stage.connect(count)
    time.sleep(2.5)
    return clients, sum(stage.memory().values()) - before


def idle_crowd(start: Starter) -> Result:
    """CPU time per second with 10,000 idle watches: health checks, timers, whatever else wakes a process up.

    With two workers, because 10,000 watches are 20,000 descriptors and many systems allow a process no more. HAProxy's
    workers are threads of one process. In the end an event is sent to all: each watch is found to be alive. `without`
    is what the same processes used before there were any watches: the checks, and what else they do unasked.
    """
    count = 10_000 if start.full else 1_000
    if start.contender.family == "haproxy" and open_files() < 2 * count + 500:
        raise SitsOutError(f"10,000 watches need 20,000 descriptors in one process, which may have {open_files():,}")
    with start(workers=2) as stage:
        time.sleep(2.5)
        without = _idle_load(stage)
        clients, grown = _settled(stage, count, watches=True)
        try:
            used = _idle_load(stage)
            stage.origin.emit(1, 0)
            wrong = count - _receive(clients, [event(1)])
            stage.origin.answer()
        finally:
            close_all(clients)
    details = {"watches": count, "without": without, "kib_per_watch": grown / 1024 / count, "grown_mib": grown / 2**20}
    return Result(used, details, wrong)


def _idle_load(stage: Stage) -> float:
    """CPU ms per second."""
    before, began = stage.cpu_ns(), time.monotonic()
    time.sleep(5 if stage.full else 2)
    return (stage.cpu_ns() - before) / 1e6 / (time.monotonic() - began)


def at_rest(stage: Stage) -> Result:
    """Resident memory of all processes, with nothing to do."""
    time.sleep(1.5)
    memory = stage.memory()
    return Result(sum(memory.values()) / 1e6, {name: size / 1e6 for name, size in memory.items()})


def watch(stage: Stage, count: int) -> list[socket.socket]:
    """So many open watches, each with its head received. Raises LoadError."""
    clients: list[socket.socket] = []
    try:
        for number in range(count):
            clients += stage.connect(1, number)
            answer = ask(clients[-1], TARGET)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise LoadError(f"it was answered with {answer[:60]!r}")
    except (OSError, LoadError) as error:
        close_all(clients)
        raise LoadError(f"watch {len(clients)} of {count}: {error}") from error
    return clients


def _receive(clients: list[socket.socket], expected: Sequence[bytes]) -> int:
    """How many of them got exactly these events, in order, however a contender cuts them into chunks."""
    epoll = select.epoll()
    waiting = {sock.fileno(): sock for sock in clients}
    received = {fd: bytearray() for fd in waiting}
    payload = b"".join(chunk.split(b"\r\n")[1] for chunk in expected)
    for sock in clients:
        sock.setblocking(False)
        epoll.register(sock, select.EPOLLIN)
    deadline = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        for fd, _events in epoll.poll(1.0):
            data = waiting[fd].recv(65536)
            so_far = received[fd]
            so_far += data
            if not data or (len(so_far) > len(payload) and so_far.count(b"}}}\n\r\n") == len(expected)):
                epoll.unregister(fd)
                del waiting[fd]
    epoll.close()
    return sum(_payload(bytes(data)) == payload for data in received.values())


def _payload(chunked: bytes) -> bytes:
    """Without chunk sizes: neither events nor sizes have CRLF in them, so every other piece is data."""
    return b"".join(chunked.split(b"\r\n")[1::2])

"""Watches: what an event costs, and what watches and connections cost that have nothing to say."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

from bench.load import LoadError
from bench.trials.origin import event
from bench.trials.result import Result
from bench.trials.stage import PATIENCE, Stage, ask, close_all

TARGET = "/api/v1/pods?watch=true&resourceVersion=100000000&timeoutSeconds=3600"
APART = 0.1  # seconds between events


def events(stage: Stage) -> Result:
    """CPU per event delivered: 1,000 watchers (100 in a quick run), ten events a second to each."""
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
    """Resident memory per watch that says nothing, and CPU time while 10,000 of them say nothing."""
    return _idle(stage, watches=True)


def idle_connections(stage: Stage) -> Result:
    """Resident memory per connection through which nothing goes."""
    return _idle(stage, watches=False)


def idle_load(stage: Stage) -> Result:
    """CPU time per second with 10,000 idle watches: health checks, timers, and whatever else wakes a process up."""
    count = 9_800 if stage.full else 1_000  # of 20,000 descriptors
    clients = watch(stage, count)
    try:
        time.sleep(2)
        before, began = stage.cpu_ns(), time.monotonic()
        time.sleep(8 if stage.full else 3)
        used, took = stage.cpu_ns() - before, time.monotonic() - began
    finally:
        close_all(clients)
    return Result(used / 1e6 / took, {"watches": count})


def _idle(stage: Stage, *, watches: bool) -> Result:
    count = 5_000 if stage.full else 1_000
    close_all(watch(stage, 50) if watches else stage.connect(50))  # what the first ones make it load is not theirs
    time.sleep(1)
    before = stage.memory()
    clients = watch(stage, count) if watches else stage.connect(count)
    try:
        time.sleep(2.5)
        after = stage.memory()
    finally:
        close_all(clients)
    grown = sum(after.values()) - sum(before.values())
    return Result(grown / 1024 / count, {"connections": count, "grown_mib": grown / 2**20})


def at_rest(stage: Stage) -> Result:
    """Resident memory of all processes, with nothing to do."""
    time.sleep(1.5)
    memory = stage.memory()
    return Result(sum(memory.values()) / 1e6, {name: size / 1e6 for name, size in memory.items()})


def watch(stage: Stage, count: int) -> list[socket.socket]:
    """So many open watches, each with its head received. Raises LoadError."""
    clients: list[socket.socket] = []
    try:
        # One after the other: of 1,000 connections that wait to be asked HAProxy 2.6 overlooks some.
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

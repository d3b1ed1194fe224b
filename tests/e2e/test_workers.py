"""Several workers that are one balancer: they share the long connections, the counts and the limits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy, wait_for

# What a worker may have more than another (dataplane/listener.py): a quarter, and eight, and those it accepted at once.
TOLERANCE = 8 + 64


@pytest.fixture
def backends() -> Iterator[list[socket.socket]]:
    """They let connections wait in their accept queues: that is all that counting takes."""
    made = [socket.create_server(("127.0.0.1", 0), backlog=2048) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for sock in made:
            stack.enter_context(sock)
        yield made


def config(port: int, backends: list[socket.socket], balance: str, listener: str = "", backend: str = "") -> str:
    addresses = ", ".join(f"{{address: '127.0.0.1:{sock.getsockname()[1]}'{backend}}}" for sock in backends)
    return (
        f"workers: 2\nlisteners: [{{name: api, bind: '127.0.0.1:{port}', mode: tcp, pool: masters{listener}}}]\n"
        f"pools: {{masters: {{balance: {balance}, backends: [{addresses}], health_check: {{type: none}}}}}}\n"
    )


def counts(running: Lbproxy) -> list[int]:
    return [worker["connections"] for worker in running.status()["workers"]]


def connect(port: int, count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    made = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(count)]
    for sock in made:
        stack.enter_context(sock)
    return made


def per_backend(running: Lbproxy) -> list[int]:
    return [backend["active"] for backend in running.status()["pools"][0]["backends"]]


def fill(running: Lbproxy, port: int, count: int, stack: contextlib.ExitStack) -> None:
    """One after the other: of two workers that look at the same instant each may take the last place."""
    for _ in range(count):
        before = sum(per_backend(running))
        connect(port, 1, stack)
        wait_for(lambda before=before: sum(per_backend(running)) == before + 1)  # type: ignore[misc]


@pytest.mark.parametrize("at_once", [1, 400])
def test_long_connections_do_not_pile_up_on_one_worker(
    tmp_path: Path, backends: list[socket.socket], at_once: int
) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, "least_conn")) as running, contextlib.ExitStack() as stack:
        for done in range(0, 400, at_once):
            connect(port, at_once, stack)
            if done % 40 == 0:
                wait_for(lambda done=done: sum(counts(running)) == done + at_once)  # type: ignore[misc]
        wait_for(lambda: sum(per_backend(running)) == 400)
        more, less = max(counts(running)), min(counts(running))
        assert more <= less + less // 4 + TOLERANCE, counts(running)
        assert abs(per_backend(running)[0] - per_backend(running)[1]) <= 2, per_backend(running)


def test_limits_are_those_of_all_workers_together_and_a_dead_one_holds_nothing(
    tmp_path: Path, backends: list[socket.socket]
) -> None:
    port = free_port()
    text = config(port, backends, "round_robin", ", max_connections: 60", ", max_connections: 20")
    with lbproxy(tmp_path, text) as running, contextlib.ExitStack() as stack:
        fill(running, port, 40, stack)
        assert per_backend(running) == [20, 20]
        for _ in range(5):  # no place at a backend
            with pytest.raises(ConnectionResetError):
                connect(port, 1, stack)[0].recv(1)
        assert per_backend(running) == [20, 20]

        victim = max(running.status()["workers"], key=lambda worker: worker["connections"])
        os.kill(victim["pid"], signal.SIGKILL)
        wait_for(lambda: len([one for one in running.status()["workers"] if one["ready"]]) == 2)
        wait_for(lambda: sum(per_backend(running)) == 40 - victim["connections"])
        fill(running, port, victim["connections"], stack)
        assert per_backend(running) == [20, 20]


def test_a_stuck_worker_does_not_keep_connections_from_the_other(tmp_path: Path, backends: list[socket.socket]) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, "least_conn")) as running, contextlib.ExitStack() as stack:
        stuck, other = (worker["pid"] for worker in running.status()["workers"])
        os.kill(stuck, signal.SIGSTOP)
        try:
            connect(port, 100, stack)
            wait_for(lambda: sum(per_backend(running)) == 100)
            by_pid = {worker["pid"]: worker["connections"] for worker in running.status()["workers"]}
            assert by_pid == {stuck: 0, other: 100}
        finally:
            os.kill(stuck, signal.SIGCONT)


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, backends: list[socket.socket]) -> None:
    """A process that stands still holds its connections and says nothing: only that it does not answer tells."""
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, "least_conn")) as running:
        before = [worker["pid"] for worker in running.status()["workers"]]
        os.kill(before[0], signal.SIGSTOP)
        assert running.wait_event("worker_hung")["pid"] == before[0]
        wait_for(lambda: [one["ready"] for one in running.status()["workers"]] == [True, True])
        after = [worker["pid"] for worker in running.status()["workers"]]
        assert before[0] not in after
        assert before[1] in after

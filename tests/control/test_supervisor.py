"""The supervisor with real worker processes: started together, replaced, asked, drained, and what goes wrong."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lbproxy.admin.log import EventLog, Output
from lbproxy.control.configfile import loads
from lbproxy.control.listening import ListeningSockets
from lbproxy.control.predecessor import Bequest, Predecessor
from lbproxy.control.supervisor import Supervisor, WorkerStartError
from lbproxy.core import messages
from lbproxy.core.config import Admin, Config
from lbproxy.core.health import Health

PATIENCE = 15.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; fail after PATIENCE."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)


class Scene:
    """A supervisor, what it writes, and the port that its workers serve."""

    def __init__(self, config: Config, log: Path) -> None:
        self.config = config
        self.sockets = ListeningSockets(replace(config, admin=Admin(None)))
        self.port: int = self.sockets.of(config.listeners[0])[0].getsockname()[1]
        self.health: list[messages.SetHealth] = []
        self.failed: list[messages.BackendFailed] = []
        self._path = log
        self._file = log.open("ab")
        self._output = Output(self._file.fileno())
        self._output.start()
        self.supervisor = Supervisor(
            config,
            self.sockets.of,
            log=EventLog(self._output),
            output=self._output,
            current_health=lambda: self.health,
            on_backend_failed=self.failed.append,
        )

    def lines(self, event: str) -> list[dict[str, str]]:
        assert self._output.flush(PATIENCE)  # a thread writes
        parsed = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [line for line in parsed if line["event"] == event]

    def stop_listening(self) -> None:
        self.sockets.close()

    def close(self) -> None:
        self.stop_listening()
        self._output.close()
        self._file.close()

    async def accepted(self) -> int:
        """The connections accepted until now: the first answer may be to a question that was open already."""
        with trio.fail_after(PATIENCE):
            for worker in self.supervisor.workers:
                for _ in range(2):
                    await worker.ask().wait()
        return (await self.supervisor.counters()).listeners[0].accepted

    async def ask(self) -> bytes:
        """The name of the backend that a connection reaches."""
        with trio.fail_after(PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                return bytes(await stream.receive_some(10))


@pytest.fixture
async def backends(nursery: trio.Nursery) -> AsyncIterator[list[int]]:
    """Ports of two servers that say `a` and `b`, and hold the connection until the client ends it."""
    ports = []
    for name in (b"a", b"b"):

        async def greet(name: bytes, stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):  # a drain that is over resets it
                await stream.send_all(name)
                with trio.move_on_after(PATIENCE):
                    await stream.receive_some(1)

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        ports.append(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, partial(greet, name), listeners)
    yield ports
    nursery.cancel_scope.cancel()


@pytest.fixture
def make(backends: list[int], tmp_path: Path) -> Iterator[Callable[[int], Scene]]:
    made: list[Scene] = []

    def build(workers: int) -> Scene:
        addresses = ", ".join(f"'127.0.0.1:{port}'" for port in backends)
        text = (
            f"workers: {workers}\nlisteners: [{{name: api, bind: '127.0.0.1:1', mode: tcp, pool: p}}]\n"
            f"pools: {{p: {{backends: [{addresses}], health_check: {{type: none}}}}}}\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        made.append(Scene(loads(text.replace(":1'", f":{port}'", 1)).config, tmp_path / "log"))
        return made[-1]

    yield build
    for scene in made:
        scene.close()


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[list[int]]:
    """The pids of the workers, which are stopped in the end."""
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await nursery.start(scene.supervisor.run)
        yield [worker.pid for worker in scene.supervisor.workers]
        with trio.fail_after(PATIENCE):
            await scene.supervisor.drain(0)


async def test_it_is_started_when_all_workers_accept(make: Callable[[int], Scene]) -> None:
    scene = make(3)
    async with running(scene) as pids:
        assert len(set(pids)) == 3
        assert all(worker.ready.is_set() for worker in scene.supervisor.workers)
        assert sorted(worker.number for worker in scene.supervisor.workers) == [0, 1, 2]
        assert await scene.ask() in (b"a", b"b")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert scene.supervisor.restarts == 0


async def test_a_dead_worker_is_replaced_and_what_it_counted_stays(make: Callable[[int], Scene]) -> None:
    scene = make(1)
    async with running(scene) as (pid,):
        for _ in range(5):
            await scene.ask()
        assert await scene.accepted() == 5
        os.kill(pid, signal.SIGKILL)
        await until(lambda: scene.supervisor.restarts == 1)
        assert await scene.ask() in (b"a", b"b")  # accepted by the replacement: the socket has stayed open
        assert await scene.accepted() == 6
        assert scene.supervisor.workers[0].number == 0
    assert "was killed by SIGKILL" in scene.lines("worker_died")[0]["msg"]


async def test_a_replacement_is_told_the_health_of_all_backends(make: Callable[[int], Scene]) -> None:
    scene = make(1)
    async with running(scene) as (pid,):
        assert {await scene.ask() for _ in range(4)} == {b"a", b"b"}
        scene.health = [messages.SetHealth("p", 0, Health.DOWN, False)]
        scene.supervisor.broadcast(scene.health[0])
        await scene.accepted()  # answered after what was sent before
        assert {await scene.ask() for _ in range(4)} == {b"b"}
        os.kill(pid, signal.SIGKILL)
        await until(lambda: scene.supervisor.restarts == 1)
        assert {await scene.ask() for _ in range(4)} == {b"b"}


async def test_a_stuck_worker_delays_a_scrape_by_no_more_than_the_patience(make: Callable[[int], Scene]) -> None:
    scene = make(2)
    async with running(scene) as pids:
        await scene.ask()
        assert await scene.accepted() == 1
        os.kill(pids[0], signal.SIGSTOP)
        try:
            for _ in range(3):
                with trio.fail_after(2):
                    assert (await scene.supervisor.counters()).listeners[0].accepted == 1
        finally:
            os.kill(pids[0], signal.SIGCONT)
        assert await scene.accepted() == 1  # it answers again


async def test_a_worker_that_was_stuck_is_told_what_it_has_missed(make: Callable[[int], Scene]) -> None:
    scene = make(1)
    async with running(scene) as pids:
        os.kill(pids[0], signal.SIGSTOP)
        worker = scene.supervisor.workers[0]
        for _ in range(10_000):  # more than any channel holds: the rest is lost
            scene.supervisor.broadcast(messages.SetHealth("p", 0, Health.UP, False))
            if worker.behind:
                break
        assert worker.behind
        scene.health = [messages.SetHealth("p", 0, Health.DOWN, False)]
        os.kill(pids[0], signal.SIGCONT)
        await until(lambda: not worker.behind)
        await worker.ask().wait()  # answered after what was sent before it
        assert {await scene.ask() for _ in range(6)} == {b"b"}


async def test_connections_are_drained_and_a_second_order_may_hurry(make: Callable[[int], Scene]) -> None:
    scene = make(1)
    async with running(scene):
        held = await trio.open_tcp_stream("127.0.0.1", scene.port)
        assert await held.receive_some(1) in (b"a", b"b")
        scene.stop_listening()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.supervisor.drain, 60)
            await trio.testing.wait_all_tasks_blocked(0.05)
            stats = await scene.supervisor.counters()
            assert stats.listeners[0].active == 1, "a draining worker still answers"
            with trio.fail_after(PATIENCE):
                await scene.supervisor.drain(0)
        with pytest.raises(trio.BrokenResourceError):
            await held.receive_some(1)
        await held.aclose()
    assert scene.lines("close")[-1]["end"] == "KD", "the last lines of a worker are not lost"
    assert scene.supervisor.restarts == 0


@pytest.mark.parametrize("when", ["before it starts", "while workers start"])
async def test_a_stop_right_after_an_upgrade_lets_the_old_workers_go(make: Callable[[int], Scene], when: str) -> None:
    scene = make(2)
    ours, theirs = socket.socketpair()
    giver, taker = socket.socketpair()
    log_read, log_write = os.pipe()
    os.set_blocking(log_read, False)
    with theirs, giver:  # `cat` ends when its channel is closed, as a worker does that has nothing more to do
        old = subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=log_write)  # noqa: ASYNC220
    os.close(log_write)
    supervisor = scene.supervisor
    supervisor.predecessors.append(Predecessor(Bequest(old.pid, ours.detach(), log_read, taker.detach())))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            if when == "before it starts":
                nursery.start_soon(supervisor.drain, 2 * PATIENCE)
                await trio.testing.wait_all_tasks_blocked()
            else:
                nursery.start_soon(_drain_at_first_sight, supervisor)
            await nursery.start(supervisor.run)
    assert not supervisor.workers
    assert not supervisor.predecessors
    with pytest.raises(ChildProcessError):
        os.waitpid(old.pid, 0)  # noqa: ASYNC222
    old.returncode = 0  # it was waited for


async def _drain_at_first_sight(supervisor: Supervisor) -> None:
    await until(lambda: bool(supervisor.workers))
    await supervisor.drain(2 * PATIENCE)


async def test_a_worker_is_not_replaced_while_draining(make: Callable[[int], Scene]) -> None:
    scene = make(1)
    async with running(scene) as (pid,):
        held = await trio.open_tcp_stream("127.0.0.1", scene.port)
        assert await held.receive_some(1) in (b"a", b"b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.supervisor.drain, 60)
            await trio.testing.wait_all_tasks_blocked(0.05)
            os.kill(pid, signal.SIGKILL)
        await held.aclose()
    assert not scene.lines("worker_died")


async def test_a_stop_while_the_workers_start(make: Callable[[int], Scene]) -> None:
    scene = make(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.supervisor.run)
        await until(lambda: bool(scene.supervisor.workers))
        with trio.fail_after(PATIENCE):
            await scene.supervisor.drain(30)
    assert scene.supervisor.workers == []


@pytest.mark.parametrize(
    ("program", "text"),
    [("/bin/false", "exited with status 1"), ("/nonexistent", "could not be started: No such file")],
)
async def test_workers_that_cannot_start(
    make: Callable[[int], Scene], monkeypatch: pytest.MonkeyPatch, program: str, text: str
) -> None:
    scene = make(1)
    monkeypatch.setattr(sys, "executable", program)
    gc.collect()  # descriptors that another test has left to it are not to vanish in the middle of this one
    fds = set(os.listdir("/proc/self/fd"))
    with (
        trio.fail_after(PATIENCE),
        pytest.RaisesGroup(pytest.RaisesExc(WorkerStartError, match=text), flatten_subgroups=True),
    ):
        await scene.supervisor.run()
    assert set(os.listdir("/proc/self/fd")) == fds


async def test_the_last_words_of_a_worker_are_in_the_log(
    make: Callable[[int], Scene], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'Traceback:' >&2\necho 'Boom' >&2\nexit 1\n")
    broken.chmod(0o755)
    scene = make(1)
    monkeypatch.setattr(sys, "executable", str(broken))
    with (
        trio.fail_after(PATIENCE),
        pytest.RaisesGroup(pytest.RaisesExc(WorkerStartError), flatten_subgroups=True),
    ):
        await scene.supervisor.run()
    await until(lambda: bool(scene.lines("worker")))
    (line,) = scene.lines("worker")
    assert line["msg"].endswith(": Boom")
    assert line["traceback"] == "Traceback:\nBoom"


async def test_a_worker_that_cannot_be_replaced_now_is_replaced_later(
    make: Callable[[int], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make(1)
    async with running(scene) as (pid,):
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/nonexistent")
            os.kill(pid, signal.SIGKILL)
            await until(lambda: scene.supervisor.restarts >= 3)
        assert await scene.ask() in (b"a", b"b")
    assert any("could not be started" in line["msg"] for line in scene.lines("worker_died"))


async def test_what_live_traffic_meets_is_reported(make: Callable[[int], Scene], backends: list[int]) -> None:
    scene = make(1)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        dead = sock.getsockname()[1]
    backends[0] = dead
    other = make(1)
    assert other is not scene
    async with running(other):
        assert {await other.ask() for _ in range(3)} == {b"b"}
        await until(lambda: bool(other.failed))
    assert (other.failed[0].pool, other.failed[0].backend) == ("p", 0)
    assert "refused" in other.failed[0].reason

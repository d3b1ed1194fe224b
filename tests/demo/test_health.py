"""The health endpoints, and how the server goes away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
import trio.testing

from lbproxy.demo.health import Health, Phase
from lbproxy.demo.server import Settings, SimulatedApiserver
from lbproxy.demo.store import Store
from tests.demo.client import Client, ask, connected, until
from tests.demo.test_watch import PODS, watching


async def test_ok_and_the_list(server: SimulatedApiserver) -> None:
    assert (await ask(server.address, "GET", "/readyz")).body == b"ok"
    lines = (await ask(server.address, "GET", "/readyz?verbose")).body.decode().splitlines()
    assert lines[0] == "[+]ping ok"
    assert lines[-1] == "readyz check passed"
    assert "[+]shutdown ok" in lines
    assert b"shutdown" not in (await ask(server.address, "GET", "/livez?verbose")).body


async def test_a_failing_check_is_named_without_asking(server: SimulatedApiserver) -> None:
    await ask(server.address, "POST", "/demo/fail?check=etcd")
    answer = await ask(server.address, "GET", "/readyz")
    assert answer.code == 500
    assert b"[-]etcd failed: reason withheld\n" in answer.body
    assert answer.body.endswith(b"readyz check failed\n")
    assert (await ask(server.address, "GET", "/readyz?exclude=etcd")).code == 200
    assert (await ask(server.address, "GET", "/readyz/ping")).code == 200
    assert (await ask(server.address, "GET", "/readyz/etcd")).code == 500
    assert (await ask(server.address, "GET", "/readyz/none")).code == 404
    await ask(server.address, "POST", "/demo/fail?check=etcd&off=1")
    assert (await ask(server.address, "GET", "/readyz")).code == 200


@pytest.mark.parametrize(
    ("phase", "endpoint", "code"),
    [
        (Phase.SERVING, "readyz", 200),
        (Phase.NOT_READY, "readyz", 500),
        (Phase.NOT_READY, "livez", 200),
        (Phase.TERMINATING, "readyz", 500),
        (Phase.TERMINATING, "healthz", 200),
    ],
)
def test_phases(phase: Phase, endpoint: str, code: int) -> None:
    assert Health(phase).answer(endpoint, excluded=frozenset())[0] == code


@asynccontextmanager
async def terminating(settings: Settings) -> AsyncIterator[tuple[SimulatedApiserver, trio.Nursery]]:
    server = SimulatedApiserver(Store(), "a", settings=settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        yield server, nursery
        nursery.cancel_scope.cancel()


async def reach(server: SimulatedApiserver, phase: Phase) -> None:
    await until(lambda: server.health.phase is phase)


async def test_during_the_delay_it_is_not_ready_and_serves_everything() -> None:
    async with terminating(Settings(shutdown_delay=60)) as (server, nursery):
        nursery.start_soon(server.terminate)
        await reach(server, Phase.NOT_READY)
        readyz = await ask(server.address, "GET", "/readyz")
        assert readyz.code == 500
        assert b"[-]shutdown failed" in readyz.body
        assert (await ask(server.address, "GET", "/livez")).code == 200
        assert (await ask(server.address, "GET", "/api/v1/pods")).code == 200


async def test_then_it_refuses_closes_what_is_idle_and_finishes_what_runs() -> None:
    async with (
        terminating(Settings()) as (server, nursery),
        connected(server.address) as idle,
        connected(server.address) as busy,
    ):
        await idle.ask("GET", "/livez")
        await busy.send("GET", "/fault?delay=0.3&size=4")
        await until(lambda: server.counts["/fault"] == 1)
        nursery.start_soon(server.terminate)
        await reach(server, Phase.TERMINATING)
        with trio.fail_after(5):
            assert await idle.stream.receive_some() == b""
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream(*server.address)
            assert len((await busy.answer()).body) == 4


async def test_a_late_request_on_an_old_connection_gets_503_with_retry_after() -> None:
    async with terminating(Settings()) as (server, nursery), connected(server.address) as slow:
        await slow.stream.send_all(b"GET /api/v1/pods HTTP/1.1\r\n")  # begun, so not idle
        await watching_connections(server, 1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.start_soon(server.terminate)
        await reach(server, Phase.TERMINATING)
        await slow.stream.send_all(b"Host: x\r\n\r\n")
        answer = await slow.answer_to_foreign_request()
        assert (answer.code, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
        assert answer.json["details"]["retryAfterSeconds"] == 1


async def watching_connections(server: SimulatedApiserver, count: int) -> None:
    await until(lambda: server.connections == count)


async def test_with_send_retry_after_it_goes_on_accepting_and_answers_429() -> None:
    async with terminating(Settings(send_retry_after=True)) as (server, nursery), connected(server.address) as busy:
        await busy.send("GET", "/fault?delay=0.5")
        await until(lambda: server.counts["/fault"] == 1)
        nursery.start_soon(server.terminate)
        await reach(server, Phase.TERMINATING)
        late = await ask(server.address, "GET", "/api/v1/pods")
        assert (late.code, late.headers["retry-after"], late.headers["connection"]) == (429, "5", "close")
        assert (await ask(server.address, "GET", "/livez")).code == 200
        other = await ask(server.address, "GET", "/version", headers={"User-Agent": "kube-apiserver/v1.32"})
        assert other.code == 200


async def test_watches_end_cleanly_with_a_grace_period_and_are_cut_without() -> None:
    for grace, clean in ((1.0, True), (0.0, False)):
        async with (
            terminating(Settings(watch_termination_grace=grace)) as (server, nursery),
            connected(server.address) as client,
        ):
            await client.open_watch(PODS)
            await watching(server, 1)
            nursery.start_soon(server.terminate)
            assert await ends_cleanly(client) == clean


async def ends_cleanly(client: Client) -> bool:
    with trio.fail_after(5):
        try:
            return await client.event() is None
        except (h11.RemoteProtocolError, trio.BrokenResourceError):
            return False


async def test_killed_it_resets_everything() -> None:
    async with terminating(Settings()) as (server, _), connected(server.address) as client:
        await client.open_watch(PODS)
        server.kill()
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await client.event()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(*server.address)

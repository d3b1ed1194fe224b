"""A backend that falls silent: what is under way at it is ended or moved, and nothing else is touched."""

from __future__ import annotations

import socket
from socket import SocketType

import pytest
import trio

from lbproxy.core import messages
from lbproxy.core.config import Address, AllDown, OnDead, Retry, TcpSide
from lbproxy.core.health import Health
from lbproxy.dataplane.client import HttpConnection
from tests.dataplane.harness import Balancer, Lab, read_all, read_exactly, read_head
from tests.dataplane.test_exchange import OK, next_head, request
from tests.dataplane.test_watches import HEAD, TARGET, Masters, chunk, event, payload, sending, until_events


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


def busy(lb: Balancer) -> int:
    """The backend that has the first connection."""
    return next(index for index, backend in enumerate(lb.backends) if backend.active)


def begun(lb: Balancer) -> bool:
    """Whether a part of an answer is here."""
    connections = [one for one in lb.worker._listeners[0].connections if isinstance(one, HttpConnection)]
    return any(one._backend is not None and one._backend.begun for one in connections)


def found(lb: Balancer, backend: int, health: Health = Health.DOWN) -> None:
    """What the control plane says after a check."""
    lb.worker._take_health(messages.SetHealth("p", backend, health, False))


@pytest.mark.parametrize("kept", [False, True])
async def test_tcp_connections_to_the_dead_are_reset_and_no_others(lab: Lab, kept: bool) -> None:
    on_dead = OnDead.KEEP if kept else OnDead.CLOSE
    lb = await lab.balance(
        "tcp", await lab.backend(silent), await lab.backend(silent), close_spread=0.1, on_dead=on_dead
    )
    async with await lb.connect() as first:
        await lb.until(lambda: sum(backend.active for backend in lb.backends) == 1)
        dead = busy(lb)
        async with await lb.connect() as second:
            await lb.until(lambda: lb.backends[1 - dead].active == 1)
            found(lb, dead)
            if kept:
                with trio.move_on_after(0.5) as waited:
                    await first.receive_some(1)
                assert waited.cancelled_caught
                return
            with pytest.raises(trio.BrokenResourceError):
                await read_all(first)
            assert [lb.backends[dead].active, lb.backends[1 - dead].active] == [0, 1]
            await second.send_all(b"still there")
    assert "DD" in lb.listener.terminations


async def test_closings_are_spread(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(silent), await lab.backend(silent), close_spread=2.0)
    clients = [await lb.connect() for _ in range(40)]
    await lb.until(lambda: [backend.active for backend in lb.backends] == [20, 20])
    began = trio.current_time()
    found(lb, 0)
    await lb.until(lambda: lb.backends[0].active < 20)
    assert lb.backends[0].active > 10  # not all at once
    await lb.until(lambda: lb.backends[0].active == 0)
    assert 0.5 < trio.current_time() - began < 2.5
    for client in clients:
        await client.aclose()


async def test_one_that_comes_back_in_time_keeps_its_connections(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(silent), await lab.backend(silent), close_spread=60.0)
    async with await lb.connect():
        await lb.until(lambda: sum(backend.active for backend in lb.backends) == 1)
        dead = busy(lb)
        found(lb, dead)
        found(lb, dead, Health.UP)
        for listener in lb.worker._listeners:
            lb.worker._reactor.timers.turn(lb.worker._reactor.timers.now + 61)
            assert len(listener.connections) == 1


async def test_nothing_is_ended_when_nobody_is_known_to_be_well(lab: Lab) -> None:
    """All dead at once: that is what a mistake in the checks looks like."""
    lb = await lab.balance("tcp", await lab.backend(silent), await lab.backend(silent), close_spread=0.0)
    async with await lb.connect() as client:
        await lb.until(lambda: sum(backend.active for backend in lb.backends) == 1)
        dead = busy(lb)
        found(lb, 1 - dead)
        found(lb, dead)
        with trio.move_on_after(0.4) as waited:
            await client.receive_some(1)
        assert waited.cancelled_caught


@pytest.mark.parametrize("others_return", [False, True])
async def test_the_dead_are_left_for_those_that_are_alive_and_not_ready(lab: Lab, others_return: bool) -> None:
    """etcd is gone, and a master freezes: the others get the traffic, so what hangs at that one has a place to go.

    With `all_down: reject` they get it only when they are ready again, and then it is cut.
    """
    all_down = AllDown.REJECT if others_return else AllDown.TRY
    backends = [await lab.backend(silent) for _ in range(3)]
    lb = await lab.balance("tcp", *backends, close_spread=0.0, all_down=all_down)
    clients = [await lb.connect() for _ in range(6)]
    await lb.until(lambda: [backend.active for backend in lb.backends] == [2, 2, 2])
    found(lb, 1, Health.NOT_READY)
    found(lb, 2, Health.NOT_READY)
    found(lb, 0)
    lb.advance(1.0)
    if others_return:
        assert [backend.active for backend in lb.backends] == [2, 2, 2]
        found(lb, 1, Health.UP)
        lb.advance(2.0)
        found(lb, 2, Health.UP)
        lb.advance(2.0)
    assert [backend.active for backend in lb.backends] == [0, 2, 2]
    for client in clients:
        await client.aclose()


async def test_all_dead_and_one_comes_back(lab: Lab) -> None:
    """The others may be on their way: they are given a moment, then what is connected to them is cut."""
    lb = await lab.balance("tcp", *[await lab.backend(silent) for _ in range(3)], close_spread=0.0)
    clients = [await lb.connect() for _ in range(6)]
    await lb.until(lambda: [backend.active for backend in lb.backends] == [2, 2, 2])
    for index in range(3):
        found(lb, index)
    lb.advance(60.0)
    found(lb, 0, Health.UP)
    lb.advance(1.5)
    found(lb, 1, Health.UP)
    assert [backend.active for backend in lb.backends] == [2, 2, 2]
    lb.advance(2.0)
    assert [backend.active for backend in lb.backends] == [2, 2, 0]
    for client in clients:
        await client.aclose()


async def test_a_watch_goes_on_elsewhere(lab: Lab) -> None:
    masters = Masters(sending(HEAD + chunk(event(5)) + b"ff\r\n{", "stay"), sending(HEAD + chunk(event(6)), "stay"))
    lb = await masters.start(lab, close_spread=0.1)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        body = await until_events(client, 1)
        found(lb, busy(lb))
        assert payload(body + await until_events(client, 1)) == event(5) + event(6)
    assert lb.listener.watches_resumed == 1


@pytest.mark.parametrize(("method", "answer"), [("GET", b"200"), ("POST", b"502")])
async def test_a_request_without_an_answer(lab: Lab, method: str, answer: bytes) -> None:
    """A GET is asked again; what may have been executed is not."""

    async def first(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    masters = Masters(first, sending(OK, "stay"))
    lb = await masters.start(lab, close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(
            request("/api/v1/pods", *(["Content-Length: 0"] if method == "POST" else []), method=method)
        )
        await lb.until(lambda: len(masters.targets) == 1)
        found(lb, busy(lb))
        assert (await read_head(client)).split()[1] == answer


async def test_a_request_whose_answer_has_begun_is_not_sent_again(lab: Lab) -> None:
    """Not even a GET, and be it that only a part of the head has come."""
    masters = Masters(sending(b"HTTP/1.1 200 OK\r\nContent-", "stay"), sending(OK, "stay"))
    lb = await masters.start(lab, close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods"))
        await lb.until(lambda: begun(lb))
        found(lb, busy(lb))
        assert (await read_head(client)).split()[1] == b"502"
    assert len(masters.targets) == 1


def judge_meanwhile(lb: Balancer, backend: int, health: Health) -> None:
    """Have the verdict on a backend come whenever a connection to it is being made."""
    dialer = lb.worker._listeners[0].dialer
    connect = dialer.connect

    def judged(address: Address, side: TcpSide) -> SocketType:
        if address == lb.worker._pools["p"].peers[backend].address:
            found(lb, backend, health)
        return connect(address, side)

    dialer.connect = judged


async def well(stream: trio.SocketStream) -> None:
    while await next_head(stream):
        await stream.send_all(OK)


@pytest.mark.parametrize("health", [Health.DOWN, Health.NOT_READY])
@pytest.mark.parametrize("mode", ["tcp", "http"])
async def test_the_verdict_comes_while_a_connection_is_made(lab: Lab, mode: str, health: Health) -> None:
    """The kernel of a stopped process completes it, and whatever is sent there waits for good."""

    lb = await lab.balance(mode, await lab.backend(silent), await lab.backend(well))
    judge_meanwhile(lb, 0, health)
    async with await lb.connect() as client:
        await client.send_all(request("/", "Content-Length: 0", method="POST"))
        assert await read_exactly(client, len(OK)) == OK
        assert [backend.active for backend in lb.backends] == ([0, 1] if mode == "tcp" else [0, 0])


@pytest.mark.parametrize("why", ["refused", "tries", "deadline"])
@pytest.mark.parametrize("mode", ["tcp", "http"])
async def test_who_is_not_ready_is_better_than_a_refusal(lab: Lab, mode: str, why: str) -> None:
    """The other one has been tried in vain, or may not be tried any more."""
    retry = Retry(tries=1) if why == "tries" else Retry(deadline=1e-9) if why == "deadline" else Retry()
    other = lab.refusing() if why == "refused" else await lab.backend(silent)
    order = (other, await lab.backend(well)) if why == "refused" else (await lab.backend(well), other)
    lb = await lab.balance(mode, *order, retry=retry, drain_timeout=5.0, close_spread=0.0)
    judge_meanwhile(lb, int(why == "refused"), Health.NOT_READY)
    async with await lb.connect() as client:
        await client.send_all(request("/", "Content-Length: 0", method="POST"))
        assert await read_exactly(client, len(OK)) == OK
        if mode == "tcp":
            lb.advance(5.5)
            assert lb.listener.active == 1
            lb.advance(1.0)
            with pytest.raises(trio.BrokenResourceError):
                await read_all(client)
            assert lb.listener.terminations["dD"] == 1


@pytest.mark.parametrize("mode", ["tcp", "http"])
async def test_who_has_died_is_not(lab: Lab, mode: str) -> None:
    """It would not be dialled now, and a client that is told so asks again."""
    lb = await lab.balance(mode, await lab.backend(well))
    judge_meanwhile(lb, 0, Health.DOWN)
    with socket.create_connection(("127.0.0.1", lb.port)) as client:
        if mode == "http":
            client.send(request())
        await lb.until(lambda: lb.listener.terminations.get("PC") == 1)
        if mode == "http":
            assert client.recv(100).split()[1] == b"503"
    assert lb.backends[0].active == 0


async def test_a_body_is_cut_and_idle_connections_are_dropped(lab: Lab) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        while head := await next_head(stream):
            await stream.send_all(OK if b"small" in head else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    lb = await lab.balance("http", await lab.backend(serve), await lab.backend(serve), close_spread=0.0)
    async with await lb.connect() as client, await lb.connect() as other:
        await other.send_all(request("/small") * 2)
        await read_exactly(other, 2 * len(OK))
        assert [backend.idle for backend in lb.backends] == [1, 1]
        await client.send_all(request("/large"))
        await read_head(client)
        dead = busy(lb)
        found(lb, dead)
        with pytest.raises(trio.BrokenResourceError):
            await read_all(client)
        await lb.until(lambda: lb.backends[dead].idle == 0 and lb.backends[1 - dead].idle == 1)


async def test_a_request_on_a_kept_connection_to_the_dead_goes_to_another(lab: Lab) -> None:
    """A stopped process: its kernel would take a new connection, and the request would hang there."""

    asked = 0

    async def falls_silent(stream: trio.SocketStream) -> None:
        nonlocal asked
        while await next_head(stream):
            asked += 1
            if asked == 1:
                await stream.send_all(OK)

    lb = await lab.balance("http", await lab.backend(falls_silent), await lab.backend(well), close_spread=0.0)
    async with await lb.connect() as client:
        for _ in range(2):  # one to each
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK
        await client.send_all(request())
        await lb.until(lambda: lb.backends[0].active == 1)
        found(lb, 0)
        assert await read_exactly(client, len(OK)) == OK
        assert [backend.active for backend in lb.backends] == [0, 0]

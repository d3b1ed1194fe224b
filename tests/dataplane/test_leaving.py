"""A backend that is not ready: nothing new goes to it, watches leave it without an error, the rest has its time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from lbproxy.core.config import BackendState
from lbproxy.core.health import Health
from tests.dataplane.harness import Lab, read_all, read_exactly, read_head
from tests.dataplane.test_dead import busy, found, silent
from tests.dataplane.test_exchange import OK, next_head, request
from tests.dataplane.test_handover_reload import reloaded
from tests.dataplane.test_watches import HEAD, LAST, TARGET, Masters, chunk, event, payload, sending, until_events

FROM_THE_START = "/api/v1/configmaps?watch=true"


async def test_a_watch_moves_and_its_client_sees_nothing(lab: Lab) -> None:
    masters = Masters(
        sending(HEAD + chunk(event(5)) + chunk(event(6))[:40], "stay"), sending(HEAD + chunk(event(6)), "stay")
    )
    lb = await masters.start(lab, close_spread=0.05)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        assert payload(await until_events(client, 1)) == event(5)
        left = busy(lb)
        found(lb, left, Health.NOT_READY)
        assert payload(await until_events(client, 1)) == event(6)
        assert lb.backends[left].active == 0
        assert lb.listener.watches_resumed == 1


async def test_a_watch_without_a_version_ends_like_at_the_servers_timeout(lab: Lab) -> None:
    """It has brought what exists, in no order: nobody could go on with it. Quiet, it may end; the client asks anew."""
    masters = Masters(*[sending(HEAD + chunk(event(5, "ADDED")), "stay")] * 2)
    lb = await masters.start(lab, close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(request(FROM_THE_START))
        await read_head(client)
        await until_events(client, 1)
        found(lb, busy(lb), Health.NOT_READY)
        with trio.fail_after(15):
            assert await read_exactly(client, len(LAST)) == LAST
        assert lb.listener.watches_ended == 1
        assert (await lb.log_line())["end"] == "--"
        await client.send_all(request(FROM_THE_START))  # the connection is still good
        await lb.until(lambda: len(masters.targets) == 2)


async def test_a_watch_that_has_brought_nothing_yet_is_not_ended_at_once(lab: Lab) -> None:
    """Clients take a watch that ends within a second, and without an event, for an error, and list again."""
    masters = Masters(sending(HEAD, "stay"))
    lb = await masters.start(lab, close_spread=0.0)
    async with await lb.connect() as client:
        began = trio.current_time()
        await client.send_all(
            request(
                "/api/v1/configmaps?watch=true&sendInitialEvents=true&allowWatchBookmarks=true"
                "&resourceVersionMatch=NotOlderThan"
            )
        )
        await read_head(client)
        found(lb, busy(lb), Health.NOT_READY)
        with trio.move_on_after(2.5) as scope:
            await client.receive_some(1)
        assert scope.cancelled_caught, trio.current_time() - began


async def test_other_streams_and_requests_stay(lab: Lab) -> None:
    async def slow(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await answer.wait()
        await stream.send_all(OK)

    answer = trio.Event()
    lb = await lab.balance("http", await lab.backend(slow), await lab.backend(slow), close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(request("/api/v1/pods"))
        await lb.until(lambda: any(backend.active for backend in lb.backends))
        found(lb, busy(lb), Health.NOT_READY)
        await trio.testing.wait_all_tasks_blocked(0.05)
        answer.set()
        assert await read_exactly(client, len(OK)) == OK


@pytest.mark.parametrize("ready_again", [False, True])
async def test_what_is_left_after_the_drain_timeout_is_closed(lab: Lab, ready_again: bool) -> None:
    lb = await lab.balance(
        "tcp", await lab.backend(silent), await lab.backend(silent), close_spread=0.0, drain_timeout=0.3
    )
    async with await lb.connect() as client:
        await lb.until(lambda: any(backend.active for backend in lb.backends))
        leaving = busy(lb)
        async with await lb.connect() as other:
            await lb.until(lambda: lb.backends[1 - leaving].active == 1)
            began = trio.current_time()
            found(lb, leaving, Health.NOT_READY)
            if ready_again:
                found(lb, leaving, Health.UP)
                with trio.move_on_after(0.8) as scope:
                    await client.receive_some(1)
                assert scope.cancelled_caught
                return
            with pytest.raises(trio.BrokenResourceError):
                await read_all(client)
            assert trio.current_time() - began >= 0.25
            assert lb.backends[1 - leaving].active == 1
            await other.send_all(b"x")
    assert lb.listener.terminations["dD"] == 1


async def test_without_a_timeout_it_stays_for_ever(lab: Lab) -> None:
    lb = await lab.balance(
        "tcp", await lab.backend(silent), await lab.backend(silent), close_spread=0.0, drain_timeout=0.0
    )
    async with await lb.connect():
        await lb.until(lambda: any(backend.active for backend in lb.backends))
        found(lb, busy(lb), Health.NOT_READY)
        lb.worker._reactor.timers.turn(lb.worker._reactor.timers.now + 3600)
        assert sum(backend.active for backend in lb.backends) == 1


async def test_nothing_leaves_when_nobody_else_is_ready(lab: Lab) -> None:
    masters = Masters(sending(HEAD + chunk(event(5)), "stay"), sending(HEAD + chunk(event(6)), "stay"))
    lb = await masters.start(lab, 2, close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        await until_events(client, 1)
        here = busy(lb)
        found(lb, 1 - here, Health.NOT_READY)
        found(lb, here, Health.NOT_READY)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert lb.backends[here].active == 1


async def test_when_all_others_refuse_the_watch_goes_back(lab: Lab) -> None:
    """They have forgotten its version; the one that is not ready still remembers it."""
    gone = b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":410}}\n'
    masters = Masters(
        sending(HEAD + chunk(event(5)), "stay"),
        sending(HEAD + chunk(gone) + LAST, "stay"),
        sending(HEAD + chunk(gone) + LAST, "stay"),
        sending(HEAD + chunk(event(6)), "stay"),
    )
    lb = await masters.start(lab, 3, close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        await until_events(client, 1)
        left = busy(lb)
        found(lb, left, Health.NOT_READY)
        assert payload(await until_events(client, 1)) == event(6)
        assert lb.backends[left].active == 1


async def test_an_outage_of_what_all_share_ends_without_an_end_of_anything(lab: Lab) -> None:
    """etcd is gone for longer than drain_timeout, and comes back: the masters are well again one after the other."""
    lb = await lab.balance("tcp", *[await lab.backend(silent) for _ in range(3)], close_spread=0.0)
    clients = [await lb.connect() for _ in range(30)]
    await lb.until(lambda: [backend.active for backend in lb.backends] == [10, 10, 10])
    for index in range(3):
        found(lb, index, Health.NOT_READY)
        lb.advance(0.2)
    lb.advance(60.0)
    for index in range(3):  # the first after one good check, the others after three
        found(lb, index, Health.UP)
        lb.advance(1.5)
    lb.advance(60.0)
    assert [backend.active for backend in lb.backends] == [10, 10, 10]
    for client in clients:
        await client.aclose()


async def test_who_stays_not_ready_after_an_outage_is_left_then(lab: Lab) -> None:
    """Its connections, and those it got while nobody was ready, have drain_timeout from the outage's end on."""
    lb = await lab.balance("tcp", *[await lab.backend(silent) for _ in range(2)], close_spread=1.0, drain_timeout=30.0)
    clients = [await lb.connect() for _ in range(10)]
    await lb.until(lambda: [backend.active for backend in lb.backends] == [5, 5])
    found(lb, 0, Health.NOT_READY)
    found(lb, 1, Health.NOT_READY)  # the last one: there is nobody to go to
    lb.advance(100.0)
    clients += [await lb.connect() for _ in range(4)]
    await lb.until(lambda: sum(backend.active for backend in lb.backends) == 14)
    here = lb.backends[1].active
    found(lb, 0, Health.UP)
    lb.advance(30.0)
    assert lb.backends[1].active == here
    lb.advance(5.0)
    assert lb.backends[1].active == 0
    assert lb.backends[0].active == 14 - here
    for client in clients:
        await client.aclose()


async def test_not_ready_twice_is_twice_the_drain_timeout(lab: Lab) -> None:
    lb = await lab.balance("tcp", *[await lab.backend(silent) for _ in range(2)], close_spread=0.0, drain_timeout=30.0)
    async with await lb.connect():
        await lb.until(lambda: any(backend.active for backend in lb.backends))
        here = busy(lb)
        found(lb, here, Health.NOT_READY)
        lb.advance(20.0)
        found(lb, here, Health.UP)
        found(lb, here, Health.NOT_READY)
        lb.advance(20.0)
        assert lb.backends[here].active == 1
        lb.advance(11.0)
        assert lb.backends[here].active == 0


async def test_a_drain_that_is_taken_back_while_nobody_is_ready(lab: Lab) -> None:
    lb = await lab.balance("tcp", *[await lab.backend(silent) for _ in range(2)], close_spread=0.0, drain_timeout=30.0)
    async with await lb.connect():
        await lb.until(lambda: any(backend.active for backend in lb.backends))
        here = busy(lb)
        (pool,) = lb.configure.config.pools
        drained = list(pool.backends)
        drained[here] = replace(drained[here], state=BackendState.DRAIN)
        await reloaded(lb, replace(lb.configure.config, pools=(replace(pool, backends=tuple(drained)),)))
        lb.advance(10.0)
        found(lb, 0, Health.NOT_READY)
        found(lb, 1, Health.NOT_READY)
        await reloaded(lb, replace(lb.configure.config, pools=(pool,)))
        lb.advance(60.0)
        assert lb.backends[here].active == 1


@pytest.mark.parametrize(("method", "answer"), [("GET", b"200"), ("POST", b"502")])
async def test_a_request_that_has_had_its_time_and_no_answer(lab: Lab, method: str, answer: bytes) -> None:
    """Its client is not cut off: a GET is asked again, and what may have been executed ends in an answer."""
    masters = Masters(silent, sending(OK, "stay"))
    lb = await masters.start(lab, 2, close_spread=0.0, drain_timeout=30.0)
    async with await lb.connect() as client:
        fields = ["Content-Length: 0"] if method == "POST" else []
        await client.send_all(request("/api/v1/pods", *fields, method=method))
        await lb.until(lambda: len(masters.targets) == 1)
        found(lb, busy(lb), Health.NOT_READY)
        lb.advance(31.0)
        assert (await read_head(client)).split()[1] == answer
        assert [backend.failed for backend in lb.backends] == [0, 0]
        assert (await lb.log_line())["end"] == ("--" if method == "GET" else "dD")

"""A client that does not take its answer, or has gone before it, while its next request is under way."""

from __future__ import annotations

import os
import socket

import trio

from lbproxy.core.admission import Admission
from lbproxy.core.config import Idle, Timeouts
from tests.dataplane.harness import PATIENCE, Lab, connects, read_all, read_exactly
from tests.dataplane.test_exchange import OK, request
from tests.dataplane.test_one_batch import HEARD, bench, broken, refuse


async def test_a_client_that_is_behind_is_no_fault_of_the_backend(lab: Lab) -> None:
    one = await bench(lab, Timeouts(response_header=10.0))
    with trio.fail_after(PATIENCE):
        async with one.client:
            await one.is_behind()
            one.backend.say(OK)
            one.lb.advance(45.0)
            one.takes_all()
            await one.takes(OK + OK)
            await one.lb.until(lambda: one.lb.listener.requests == 3)
    assert one.lb.backends[0].failed == 0
    assert one.lb.listener.responses == {2: 3}


async def test_once_the_client_has_caught_up_the_backend_has_its_time(lab: Lab) -> None:
    one = await bench(lab, Timeouts(response_header=10.0))
    with trio.fail_after(PATIENCE):
        async with one.client:
            await one.is_behind()
            one.lb.advance(19.0)
            one.takes_all()
            await one.takes(OK)
            one.lb.advance(9.0)
            assert one.lb.backends[0].failed == 0
            one.lb.advance(2.0)
            await one.takes(b"HTTP/1.1 504 ")
    assert one.lb.backends[0].failed == 1


async def test_a_client_that_is_behind_has_the_idle_time(lab: Lab) -> None:
    one = await bench(lab, Timeouts(response_header=10.0, idle=20.0))
    one.connection._seen, one.connection._quiet = 0, 3  # as an exchange may have left it
    with trio.fail_after(PATIENCE):
        async with one.client:
            await one.is_behind()
            one.lb.advance(20.0)
            assert one.lb.listener.active == 1
            one.lb.advance(20.0)
            assert one.lb.listener.active == 0
    assert one.lb.backends[0].failed == 0
    assert one.lb.backends[0].active == 0
    assert one.lb.listener.terminations["cD"] == 1


async def test_what_a_client_says_before_it_has_caught_up_waits(lab: Lab) -> None:
    """Half a head, which would else have to be there in whole in timeouts.request_header."""
    one = await bench(lab, Timeouts(request_header=5.0))
    text = request()
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.takes_little()
            one.backend.say(OK)
            os.write(one.client.socket.fileno(), text[:9])
            await one.lb.until(lambda: bool(one.connection.out))
            one.lb.advance(9.0)
            one.takes_all()
            await one.takes(OK)
            os.write(one.client.socket.fileno(), text[9:])
            await one.asked(3)
            one.backend.say(OK)
            await one.takes(OK)


async def test_a_client_that_went_before_its_answer_asks_for_nothing_more(lab: Lab) -> None:
    one = await bench(lab)
    one.listener.admission = Admission(1000.0, 60.0, one.listener.timers.now)
    one.connection.send = broken  # type: ignore[assignment]
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            one.ask()
            await one.lb.until(lambda: one.lb.listener.active == 0)
            async with await one.lb.connect() as other:
                await other.send_all(request())
                await one.asked(3)
                one.backend.say(OK)
                assert await read_exactly(other, len(OK)) == OK
    assert one.lb.backends[0].total == 3
    assert one.lb.backends[0].active == 0
    assert one.lb.worker.stats().internal_errors == 0


async def test_a_client_that_hangs_up_while_it_is_behind_gets_the_rest(lab: Lab) -> None:
    one = await bench(lab)
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.takes_little()
            one.backend.say(OK)
            one.client.socket.shutdown(socket.SHUT_WR)
            assert await read_all(one.client) == OK


async def test_a_client_that_is_behind_is_not_idle(lab: Lab) -> None:
    one = await bench(lab, Timeouts(keepalive=5.0))
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.takes_little()
            one.backend.say(OK)
            await one.lb.until(lambda: one.connection.out == OK[HEARD:])
            one.lb.advance(30.0)
            one.takes_all()
            await one.takes(OK)


async def test_a_client_that_went_before_its_answer_leaves_its_next_request(lab: Lab) -> None:
    one = await bench(lab)
    one.connection.send = broken  # type: ignore[assignment]
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            one.ask()
            await one.lb.until(lambda: one.lb.listener.active == 0)
    (stats,) = one.lb.backends
    assert (stats.active, stats.idle, stats.failed) == (0, 0, 0)
    assert one.lb.listener.requests == 3
    assert one.lb.listener.terminations["CH"] == 1


async def test_a_client_that_went_before_its_answer_has_nobody_dialled(lab: Lab) -> None:
    one = await bench(lab, idle=Idle(requests=2))
    one.connection.send = broken  # type: ignore[assignment]
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            one.ask()
            await one.lb.until(lambda: one.lb.listener.active == 0)
    (stats,) = one.lb.backends
    assert (stats.active, stats.total, connects(stats)) == (0, 2, 1)
    assert one.connection._dial is None


async def test_a_refusal_does_not_overtake_the_last_answer(lab: Lab) -> None:
    """Nobody can be reached for the next request, and that is known within the batch."""
    one = await bench(lab, idle=Idle(requests=2))
    one.listener.dialer.connect = refuse
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            one.ask()
            await one.takes(OK + b"HTTP/1.1 503 ")

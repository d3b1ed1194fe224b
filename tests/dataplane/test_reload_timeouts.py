"""Timeouts that a reload has changed hold for what begins from then on; what is under way keeps those it began with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from lbproxy.core.config import Retry, Timeouts
from tests.dataplane.harness import Balancer, Lab, read_all, read_exactly, read_head
from tests.dataplane.test_exchange import OK, next_head, request
from tests.dataplane.test_handover import connect, polite
from tests.dataplane.test_handover_reload import echo, reloaded, says, stays_quiet

SHORT, LONG = 10.0, 1000.0  # seconds of the worker's clock, which the tests advance


async def with_timeouts(lb: Balancer, timeouts: Timeouts) -> None:
    config = lb.configure.config
    await reloaded(lb, replace(config, listeners=tuple(replace(one, timeouts=timeouts) for one in config.listeners)))


async def is_over(client: trio.SocketStream) -> bool:
    """By FIN or RST; False if it is open and quiet."""
    with trio.move_on_after(0.3):
        try:
            return await client.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True
    return False


async def test_idle_of_a_relay(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(echo), timeouts=Timeouts(idle=LONG))
    first = await connect(lab, lb)
    await says(first, b"one")
    await with_timeouts(lb, Timeouts(idle=SHORT))
    second = await connect(lab, lb)
    await says(second, b"one")
    await with_timeouts(lb, Timeouts())
    third = await connect(lab, lb)
    await says(third, b"one")
    lb.advance(2 * SHORT)
    assert await is_over(second)
    await says(first, b"two")
    lb.advance(2 * LONG)
    assert await is_over(first)
    await says(third, b"two")


async def test_half_close_of_a_relay(lab: Lab) -> None:
    async def stay(stream: trio.SocketStream) -> None:
        await stream.send_all(await read_exactly(stream, 1))
        await read_all(stream)
        await trio.sleep_forever()

    lb = await lab.balance("tcp", await lab.backend(stay), timeouts=Timeouts(half_close=LONG))
    first = await connect(lab, lb)
    await says(first, b"x")
    await with_timeouts(lb, Timeouts(half_close=SHORT))
    second = await connect(lab, lb)
    await says(second, b"x")
    for client in (first, second):
        await client.send_eof()
    await lb.until(lambda: all(one.client.eof for one in lb.worker._listeners[0].connections))  # type: ignore[attr-defined]
    lb.advance(2 * SHORT)
    assert await is_over(second)
    await stays_quiet(first)


async def test_keepalive_of_a_client(lab: Lab) -> None:
    """It waits for a request since before the reload, and by the old time; the next wait is by the new one."""
    lb = await lab.balance("http", await lab.backend(polite), timeouts=Timeouts(keepalive=LONG))
    client = await connect(lab, lb)
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK
    await with_timeouts(lb, Timeouts(keepalive=SHORT))
    lb.advance(2 * SHORT)
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK
    lb.advance(2 * SHORT)
    assert await is_over(client)


async def test_response_header_of_a_request(lab: Lab) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await trio.sleep_forever()

    lb = await lab.balance("http", await lab.backend(silent), timeouts=Timeouts(response_header=LONG))
    first = await connect(lab, lb)
    await first.send_all(request())
    await lb.until(lambda: lb.backends[0].active == 1)
    await with_timeouts(lb, Timeouts(response_header=SHORT))
    second = await connect(lab, lb)
    await second.send_all(request())
    await lb.until(lambda: lb.backends[0].active == 2)
    lb.advance(2 * SHORT)
    assert (await read_head(second)).startswith(b"HTTP/1.1 504 ")
    await stays_quiet(first)


@pytest.mark.parametrize("mode", ["tcp", "http"])
async def test_connect(lab: Lab, mode: str) -> None:
    patient = Retry(deadline=LONG)
    lb = await lab.balance(mode, lab.black_hole(), timeouts=Timeouts(connect=LONG), retry=patient)
    first = await connect(lab, lb)
    await first.send_all(request())
    await lb.until(lambda: lb.listener.active == 1)
    await with_timeouts(lb, Timeouts(connect=SHORT))
    second = await connect(lab, lb)
    await second.send_all(request())
    await lb.until(lambda: lb.listener.active == 2)
    await lb.until(lambda: lb.backends[0].active == 2)
    lb.advance(1.5 * SHORT)
    if mode == "tcp":
        assert await is_over(second)
    else:
        assert (await read_head(second)).startswith(b"HTTP/1.1 503 ")
    await stays_quiet(first)

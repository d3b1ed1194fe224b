"""What is over is freed by reference counts alone: the collector that looks for cycles rarely runs in a worker."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import trio

from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.dial import Dial
from lbproxy.dataplane.half import Half
from lbproxy.dataplane.relay import Relay
from tests.dataplane.harness import Lab, read_all, reset
from tests.dataplane.test_exchange import OK, answering, ask, next_head, request
from tests.dataplane.test_relay import echo

CONNECTION = (Relay, Half, Dial, HttpConnection)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> int:
    """Objects that are parts of connections. OVER and NOBODY are no parts of any."""
    return sum(isinstance(one, CONNECTION) for one in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_an_ended_relay_leaves_nothing_behind(lab: Lab, end: str) -> None:
    lb = await lab.balance("tcp", await lab.backend(echo))
    before = alive()
    for _ in range(3):
        async with await lb.connect() as client:
            await client.send_all(b"x")
            assert await client.receive_some(1) == b"x"
            if end == "RST":
                reset(client)
            else:
                await client.send_eof()
                assert await read_all(client) == b""
    await lb.until(lambda: lb.listener.active == 0)
    # Not only in the end, but before the wheel has turned to where a dial or a connection would have been filed.
    assert alive() == before


@pytest.mark.usefixtures("no_collector")
async def test_an_upgraded_connection_leaves_nothing_behind(lab: Lab) -> None:
    async def switch(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbye")

    lb = await lab.balance("http", await lab.backend(switch))
    before = alive()
    assert (await ask(lb, request("/", "Connection: Upgrade", "Upgrade: x"))).endswith(b"bye")
    await lb.until(lambda: lb.listener.active == 0)
    assert alive() == before


@pytest.mark.usefixtures("no_collector")
async def test_a_closed_http_client_leaves_nothing_behind(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)))
    before = alive()
    for _ in range(3):
        await ask(lb, request("/", "Connection: close"))
    await lb.until(lambda: lb.listener.active == 0)
    assert alive() == before

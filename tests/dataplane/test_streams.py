"""How many long streams there are, of which kind and age, and what it takes to know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import trio

from lbproxy.core.messages import StreamStats
from lbproxy.dataplane.listener import Connection
from lbproxy.dataplane.streams import INTERVAL
from tests.dataplane.harness import Balancer, Lab, read_exactly, read_head
from tests.dataplane.test_exchange import OK, next_head, request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WATCH = "/api/v1/pods?watch=true"
LOG = "/api/v1/namespaces/n/pods/p/log?follow=true"


class Counted(set[Connection]):
    """Connections that know how often all of them have been looked at."""

    walks = 0

    def __iter__(self) -> Iterator[Connection]:
        self.walks += 1
        return super().__iter__()


async def serve(stream: trio.SocketStream) -> None:
    """Streams that say nothing, and small answers."""
    while head := await next_head(stream):
        await stream.send_all(HEAD if b"watch=true" in head or b"follow=true" in head else OK)


def streams(lb: Balancer) -> list[dict[str, StreamStats]]:
    lb.advance(INTERVAL)
    return lb.worker.stats().streams["p"]


async def begin(lb: Balancer, target: str, stack: AsyncExitStack) -> trio.SocketStream:
    client = await lb.connect()
    stack.push_async_callback(client.aclose)
    await client.send_all(request(target))
    await read_head(client)
    return client


async def test_by_backend_and_kind(lab: Lab) -> None:
    lb = await lab.balance("http", *[await lab.backend(serve) for _ in range(2)])
    async with AsyncExitStack() as stack:
        first, *_ = [await begin(lb, target, stack) for target in (WATCH, LOG, WATCH, LOG, WATCH)]
        assert [{kind: one.count for kind, one in kinds.items()} for kinds in streams(lb)] == [{"watch": 3}, {"log": 2}]
        await first.aclose()
        await lb.until(lambda: lb.backends[0].long_streams == 2)
        assert streams(lb)[0]["watch"].count == 2
    await lb.until(lambda: not lb.listener.active)
    assert streams(lb) == [{}, {}]


async def test_they_grow_old_without_being_looked_at(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(serve))
    (listener,) = lb.worker._listeners
    async with AsyncExitStack() as stack:
        await begin(lb, WATCH, stack)
        lb.advance(30)
        await begin(lb, WATCH, stack)
        listener.connections = looked_at = Counted(listener.connections)
        (seen,) = streams(lb)
        assert seen["watch"].ages == [2, 0, 0, 0]
        assert looked_at.walks == 1
        other = await begin(lb, "/api/v1/pods", stack)
        for _ in range(3):
            await read_exactly(other, len(OK) - OK.index(b"\r\n\r\n") - 4)
            await other.send_all(request())
            await read_head(other)
        lb.advance(30)
        (seen,) = streams(lb)
        assert seen["watch"].ages == [1, 1, 0, 0]
        assert 65 < seen["watch"].oldest < 75
        lb.advance(600)
        (seen,) = streams(lb)
        assert seen["watch"].ages == [0, 0, 2, 0]
        assert looked_at.walks == 1
        await begin(lb, WATCH, stack)
        (seen,) = streams(lb)
        assert seen["watch"].ages == [1, 0, 2, 0]
        assert looked_at.walks == 2


async def test_many_that_come_and_go_are_not_looked_at_every_second(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(serve))
    (listener,) = lb.worker._listeners
    async with AsyncExitStack() as stack:
        await begin(lb, WATCH, stack)
        listener.connections = looked_at = Counted(listener.connections)
        assert streams(lb)[0]["watch"].count == 1
        for _ in range(4):
            await begin(lb, WATCH, stack)
            lb.advance(INTERVAL / 5)
            assert lb.worker.stats().streams["p"][0]["watch"].count == 1
        assert looked_at.walks == 1
        assert streams(lb)[0]["watch"].count == 5

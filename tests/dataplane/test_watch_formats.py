"""Watches leave a backend that is not ready between two events, whatever the events are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio

from lbproxy.core.health import Health
from lbproxy.core.http1 import ChunkedWalk
from lbproxy.dataplane.client import HttpConnection
from tests.core.watch import protobuf
from tests.core.watch.cbor import encode_event
from tests.dataplane import test_watches as json_watches
from tests.dataplane.harness import Balancer, Lab, read_head
from tests.dataplane.test_dead import busy, found
from tests.dataplane.test_exchange import request
from tests.dataplane.test_leaving import FROM_THE_START
from tests.dataplane.test_watches import LAST, TARGET, Masters, chunk, sending


@dataclass(frozen=True)
class Format:
    media: str
    event: Callable[[int, str], bytes]

    @property
    def head(self) -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Type: {self.media}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def in_protobuf(version: int, kind: str) -> bytes:
    return protobuf.frame(kind.encode(), protobuf.metadata(b"%d" % version))


def in_cbor(version: int, kind: str) -> bytes:
    metadata = {"name": "x", "namespace": "default", "resourceVersion": str(version)}
    return encode_event({"type": kind, "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}})


FORMATS = [
    Format("application/json", json_watches.event),
    Format("application/vnd.kubernetes.protobuf;stream=watch", in_protobuf),
    Format("application/cbor-seq", in_cbor),
]


class Body:
    """A chunked body as it comes."""

    def __init__(self, client: trio.SocketStream) -> None:
        self.data = b""
        self._raw = b""
        self._client = client

    def is_whole(self) -> bool:
        return self._raw.endswith(LAST)

    async def until(self, size: int) -> bytes:
        """The payload, once so much of it is there or it is whole."""
        with trio.fail_after(10):
            while len(self.data) < size and not self.is_whole():
                got = await self._client.receive_some(65536)
                assert got
                self._raw += got
                sink: list[bytes] = []
                ChunkedWalk().feed(self._raw, 0, sink)
                self.data = b"".join(sink)
        return self.data


def held(lb: Balancer) -> int:
    """Bytes of an event that is not whole."""
    (connection,) = lb.worker._listeners[0].connections
    assert isinstance(connection, HttpConnection)
    return connection.watch.body.stream.held if connection.watch else 0


@pytest.mark.parametrize("made", FORMATS, ids=lambda made: made.media)
async def test_a_watch_ends_after_a_whole_event(lab: Lab, made: Format) -> None:
    """It brings what exists, so nobody can go on with it; and the last event has come in part."""
    first, second = made.event(5, "ADDED"), made.event(4, "ADDED")
    go_on = trio.Event()

    async def slow(stream: trio.SocketStream) -> None:
        await stream.send_all(made.head + chunk(first) + chunk(second[:-7]))
        await go_on.wait()
        await stream.send_all(chunk(second[-7:]))
        await trio.sleep_forever()

    lb = await Masters(slow).start(lab, close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(request(FROM_THE_START))
        await read_head(client)
        body = Body(client)
        assert await body.until(len(first)) == first
        await lb.until(lambda: held(lb) == len(second) - 7)
        found(lb, busy(lb), Health.NOT_READY)
        lb.advance(12.0)
        assert lb.listener.watches_ended == 0
        go_on.set()
        assert await body.until(len(first + second)) == first + second
        assert not body.is_whole()
        lb.advance(7.0)
        assert await body.until(1 << 20) == first + second
        assert body.is_whole()
        assert lb.listener.watches_ended == 1
        assert (await lb.log_line())["end"] == "--"


@pytest.mark.parametrize("made", FORMATS, ids=lambda made: made.media)
async def test_a_watch_goes_on_after_a_whole_event(lab: Lab, made: Format) -> None:
    one, two, three = (made.event(version, "MODIFIED") for version in (5, 6, 7))
    masters = Masters(
        sending(made.head + chunk(one + two[:9]), "stay"), sending(made.head + chunk(two) + chunk(three), "stay")
    )
    lb = await masters.start(lab, close_spread=0.0)
    async with await lb.connect() as client:
        await client.send_all(request(TARGET))
        await read_head(client)
        body = Body(client)
        assert await body.until(len(one)) == one
        await lb.until(lambda: held(lb) == 9)
        found(lb, busy(lb), Health.NOT_READY)
        lb.advance(1.0)
        assert await body.until(len(one + two + three)) == one + two + three
    assert "resourceVersion=5" in masters.targets[1]

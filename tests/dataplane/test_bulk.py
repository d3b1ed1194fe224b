"""Bodies that go through pipes: every byte in order, whoever stalls or leaves, and no pipe is lost or leaks bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random

import pytest
import trio

from lbproxy.core.config import Timeouts
from tests.dataplane.harness import Balancer, Handler, Lab, connects, read_all, read_exactly, read_head, reset
from tests.dataplane.test_exchange import OK, next_head, request

BODY = random.Random(7).randbytes(6 << 20)
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = CHUNKED + b"%x\r\n" % len(BODY)


def serving(response: bytes, then: bytes = OK) -> Handler:
    """The first answer of a connection is `response`, the others are `then`."""

    async def serve(stream: trio.SocketStream) -> None:
        answer = response
        while await next_head(stream):
            await stream.send_all(answer)
            answer = then

    return serve


@pytest.fixture(autouse=True)
def always_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe from the first read on, and no way back: a stall is then sure to find it, however the bytes come in."""
    for module in ("backend", "half"):
        monkeypatch.setattr(f"lbproxy.dataplane.{module}.CHUNK", 4096)
        monkeypatch.setattr(f"lbproxy.dataplane.{module}.BULK", 0)
        monkeypatch.setattr(f"lbproxy.dataplane.{module}.ENOUGH", 1)


def pipes_in_use(lb: Balancer) -> int:
    supply = lb.worker._reactor.pipes
    return supply._count - len(supply._unused)


@pytest.mark.parametrize(
    ("response", "size"),
    [
        (LENGTH + BODY, len(LENGTH) + len(BODY)),
        (ONE_CHUNK + BODY + b"\r\n0\r\n\r\n", len(ONE_CHUNK) + len(BODY) + 7),
        (CHUNKED + b"".join(b"80000\r\n" + BODY[:0x80000] + b"\r\n" for _ in range(12)) + b"0\r\n\r\n", 0),
    ],
    ids=["length", "one chunk", "large chunks"],
)
@pytest.mark.parametrize("stall", [False, True])
async def test_http_bodies(lab: Lab, response: bytes, size: int, stall: bool) -> None:
    lb = await lab.balance("http", await lab.backend(serving(response)))
    async with await lb.connect() as client:
        await client.send_all(request())
        if stall:  # the client takes nothing until all buffers on the way are full
            await lb.until(lambda: any(one.out for one in lb.worker._listeners[0].connections))  # type: ignore[attr-defined]
        got = await read_exactly(client, size or len(response))
        assert hashlib.sha256(got).digest() == hashlib.sha256(response).digest()
        await client.send_all(request())  # both connections are in step: the next answer comes the same way
        assert await read_exactly(client, len(OK)) == OK
    assert lb.worker._reactor.pipes._count > 0  # else this test is about something else
    assert pipes_in_use(lb) == 0
    assert lb.backends[0].total == 2
    assert connects(lb.backends[0]) == 1
    assert lb.backends[0].bytes_out == len(response) + len(OK)


@pytest.mark.parametrize("direction", ["to client", "to backend"])
async def test_tcp_bulk_with_a_stalled_reader(lab: Lab, direction: str) -> None:
    received = bytearray()
    done = trio.Event()

    async def backend(stream: trio.SocketStream) -> None:
        if direction == "to client":
            await stream.send_all(BODY)
            await stream.send_eof()
        else:
            await lb.until(lambda: pipes_in_use(lb) == 1)
            received.extend(await read_all(stream))
        done.set()

    lb = await lab.balance("tcp", await lab.backend(backend))
    async with await lb.connect() as client:
        if direction == "to client":
            await lb.until(lambda: pipes_in_use(lb) == 1)
            received.extend(await read_all(client))
        else:
            await client.send_all(BODY)
            await client.send_eof()
            await done.wait()
        assert hashlib.sha256(received).digest() == hashlib.sha256(BODY).digest()
    assert pipes_in_use(lb) == 0


@pytest.mark.parametrize("mode", ["tcp", "http"])
@pytest.mark.parametrize("leaver", ["client", "backend"])
async def test_who_leaves_in_the_middle_takes_the_pipe_along(lab: Lab, mode: str, leaver: str) -> None:
    """A pipe with bytes in it is thrown away: the next to use it would get them."""
    leave = trio.Event()

    async def much_more(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * len(BODY)))
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(100):  # more than all buffers on the way hold
                await stream.send_all(BODY)

    async def backend(stream: trio.SocketStream) -> None:
        if mode == "http":
            await next_head(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(much_more, stream)
            await leave.wait()
            nursery.cancel_scope.cancel()
        reset(stream)

    lb = await lab.balance(mode, await lab.backend(backend))
    client = await lb.connect()
    await client.send_all(request())
    await lb.until(lambda: pipes_in_use(lb) == 1)
    if leaver == "client":
        reset(client)
        leave.set()
    else:
        leave.set()
        with pytest.raises(trio.BrokenResourceError):  # RST, as the backend said
            await read_all(client)
    await lb.until(lambda: not lb.listener.active)
    await client.aclose()
    assert pipes_in_use(lb) == 0
    assert not [pipe for pipe in lb.worker._reactor.pipes._unused if pipe.held]


async def test_without_pipes_bytes_are_copied(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pipe2", _no_descriptors)
    lb = await lab.balance("http", await lab.backend(serving(LENGTH + BODY)), timeouts=Timeouts())
    async with await lb.connect() as client:
        await client.send_all(request())
        assert (await read_head(client)) == LENGTH
        assert await read_exactly(client, len(BODY)) == BODY
    assert lb.worker._reactor.pipes._count == 0


def _no_descriptors(flags: int) -> tuple[int, int]:
    raise OSError(24, "Too many open files")

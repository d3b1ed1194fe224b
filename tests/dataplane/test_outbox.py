"""What is sent at a batch's end: in order, before anything else that is sent, and whatever becomes of the socket."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import trio

from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.relay import Half
from tests.dataplane.harness import PATIENCE, Balancer, Lab, read_all, read_exactly
from tests.dataplane.test_exchange import OK, next_head, request

BAD = b"NO REQUEST\r\n\r\n"


class Sender:
    def __init__(self) -> None:
        self.rest: list[bytes] = []
        self.errors: list[OSError] = []

    def on_unsent(self, rest: bytes) -> None:
        self.rest.append(rest)

    def on_send_failed(self, error: OSError) -> None:
        self.errors.append(error)


class Faulty(Sender):
    def on_unsent(self, rest: bytes) -> None:
        raise ZeroDivisionError


@pytest.fixture
async def reactor() -> AsyncIterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close_all()


async def test_what_is_not_taken_comes_back_and_a_bug_there_is_its_own(reactor: Reactor) -> None:
    sender, faulty = Sender(), Faulty()
    near, far = socket.socketpair()
    near.setblocking(False)
    big = bytes(8 << 20)
    with near, far:
        for who in (faulty, sender, sender):
            reactor.outbox.append((near.send, big, who))
        reactor.send_all()
        assert reactor.internal_errors == 1
        assert [len(rest) for rest in sender.rest] == [len(big), len(big)]  # full since the first
        assert not reactor.outbox
        reactor.send_all()
        assert len(sender.rest) == 2


async def test_a_broken_connection_is_told_and_the_others_are_served(reactor: Reactor) -> None:
    broken, well = Sender(), Sender()
    near, far = socket.socketpair()
    other, end = socket.socketpair()
    far.close()
    with near, other, end:
        reactor.outbox += [(near.send, b"one", broken), (other.send, b"two", well)]
        reactor.send_all()
        assert end.recv(9) == b"two"
    assert [type(error) for error in broken.errors] == [BrokenPipeError]
    assert (broken.rest, well.rest, well.errors) == ([], [], [])


async def test_what_a_sender_adds_meanwhile_leaves_once(reactor: Reactor) -> None:
    near, far = socket.socketpair()

    class Adding(Sender):
        def on_send_failed(self, error: OSError) -> None:
            reactor.outbox.append((near.send, b"late", self))
            reactor.send_all()

    gone, end = socket.socketpair()
    end.close()
    with near, far, gone:
        reactor.outbox += [(gone.send, b"x", Adding()), (near.send, b"next", Sender())]
        reactor.send_all()
        assert far.recv(99) == b"latenext"
        assert not reactor.outbox


class Backend:
    """Answers when it is told to, from outside of trio: what follows at once is in the same batch."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.fd = -1

    async def serve(self, stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(OK)
        await next_head(stream)
        self.fd = stream.socket.fileno()
        self.asked.set()
        await trio.sleep_forever()

    def answer(self) -> None:
        os.write(self.fd, OK)


async def under_way(lab: Lab) -> tuple[Balancer, Backend, trio.SocketStream]:
    """A client whose second request, a plain one, is at the backend."""
    backend = Backend()
    lb = await lab.balance("http", await lab.backend(backend.serve))
    client = await lb.connect()
    await client.send_all(request())
    await read_exactly(client, len(OK))
    await client.send_all(request())
    await backend.asked.wait()
    return lb, backend, client


async def test_an_answer_of_our_own_does_not_overtake_the_backends(lab: Lab) -> None:
    _lb, backend, client = await under_way(lab)
    with trio.fail_after(PATIENCE):
        async with client:
            backend.answer()
            os.write(client.socket.fileno(), BAD)
            assert await read_exactly(client, len(OK)) == OK
            assert (await read_all(client)).startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_has_said_fin_gets_the_answer_that_was_ready(lab: Lab) -> None:
    lb, backend, client = await under_way(lab)
    with trio.fail_after(PATIENCE):
        async with client:
            backend.answer()
            await client.send_eof()
            assert await read_all(client) == OK
    await lb.until(lambda: lb.listener.active == 0)
    assert lb.worker.stats().internal_errors == 0


async def test_a_client_that_resets_while_its_answer_waits(lab: Lab) -> None:
    lb, backend, client = await under_way(lab)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    backend.answer()
    client.socket.close()
    await lb.until(lambda: lb.listener.active == 0)
    assert lb.worker.stats().internal_errors == 0
    assert lb.backends[0].active == 0


async def test_a_client_that_does_not_take_its_answer_has_it_kept(lab: Lab) -> None:
    lb, backend, client = await under_way(lab)
    connection = next(iter(lb.worker._listeners[0].connections))

    def full(data: bytes) -> int:
        connection.send = send  # type: ignore[attr-defined]
        return send(data[:7])  # type: ignore[no-any-return]

    send = connection.send  # type: ignore[attr-defined]
    connection.send = full  # type: ignore[attr-defined]
    with trio.fail_after(PATIENCE):
        async with client:
            backend.answer()
            assert await read_exactly(client, 7) == OK[:7]
            await lb.until(lambda: connection.out == OK[7:])  # type: ignore[attr-defined]
            connection.on_event(4)  # type: ignore[attr-defined]  # EPOLLOUT: the kernel has no reason to say so here
            assert await read_exactly(client, len(OK) - 7) == OK[7:]


async def test_a_request_that_cannot_be_sent_goes_to_another_connection(lab: Lab) -> None:
    """Once on a connection that is broken when the batch ends: nothing was sent, so nobody is blamed."""
    answered = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal answered
        while await next_head(stream):
            answered += 1
            await stream.send_all(OK)

    lb = await lab.balance("http", await lab.backend(serve), await lab.backend(serve))
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            for _ in range(2):
                await client.send_all(request())
                await read_exactly(client, len(OK))
            for peer in lb.worker._listeners[0].pool.peers:
                for backend in peer.idle:
                    backend.send = _broken
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK
    assert answered == 3
    assert sum(stats.failed for stats in lb.backends) == 0
    assert lb.worker.stats().internal_errors == 0


def _broken(_data: bytes) -> int:
    raise ConnectionResetError


async def test_a_relays_message_leaves_before_what_is_read_later(lab: Lab) -> None:
    """A message that fills its first buffer to the byte is followed by another: both arrive, in order."""
    seen = trio.Event()
    received = b""

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal received
        async for data in stream:
            received += data
            if len(received) == 4000:
                seen.set()

    lb = await lab.balance("tcp", await lab.backend(serve))
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            await lb.until(lambda: lb.listener.active == 1)
            relay = next(iter(lb.worker._listeners[0].connections))
            half = relay.client  # type: ignore[attr-defined]
            assert isinstance(half, Half)
            text = b"".join(b"%04d" % number for number in range(1000))
            first = half.room
            os.write(client.socket.fileno(), text[:first])
            await lb.until(lambda: half.bytes_read == first)
            os.write(client.socket.fileno(), text[first:])
            await seen.wait()
    assert received == text

"""What is sent at a batch's end: in order, before anything else that is sent, and whatever becomes of the socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio

from lbproxy.core import config as c
from lbproxy.core.board import Board
from lbproxy.core.termination import Termination
from lbproxy.dataplane.backend import EVENT
from lbproxy.dataplane.half import Half
from lbproxy.dataplane.reactor import OUT, Reactor
from lbproxy.dataplane.tcp import TcpConnection
from tests.dataplane.harness import PATIENCE, Balancer, Lab, read_all, read_exactly, reset
from tests.dataplane.test_exchange import OK, next_head, request
from tests.dataplane.test_one_batch import HEARD, bench, broken
from tests.dataplane.test_watches import HEAD, LAST, TARGET, chunk

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


async def test_an_answer_of_our_own_does_not_overtake_the_backends(lab: Lab) -> None:
    one = await bench(lab)
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            os.write(one.client.socket.fileno(), BAD)
            await one.takes(OK)
            assert (await read_all(one.client)).startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_has_said_fin_gets_the_answer_that_was_ready(lab: Lab) -> None:
    one = await bench(lab)
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            await one.client.send_eof()
            assert await read_all(one.client) == OK
    await one.lb.until(lambda: one.lb.listener.active == 0)
    assert one.lb.worker.stats().internal_errors == 0


async def test_a_client_that_resets_while_its_answer_waits(lab: Lab) -> None:
    one = await bench(lab)
    one.backend.say(OK)
    reset(one.client)
    await one.lb.until(lambda: one.lb.listener.active == 0)
    assert one.lb.worker.stats().internal_errors == 0
    assert one.lb.backends[0].active == 0


async def test_a_client_that_does_not_take_its_answer_has_it_kept(lab: Lab) -> None:
    one = await bench(lab)
    one.takes_little()
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            await one.takes(OK[:HEARD])
            await one.lb.until(lambda: one.connection.out == OK[HEARD:])
            one.takes_all()
            await one.takes(OK[HEARD:])


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
                    backend.send = broken
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK
    assert answered == 3
    assert sum(stats.failed for stats in lb.backends) == 0
    assert lb.worker.stats().internal_errors == 0


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


async def relayed(lab: Lab) -> tuple[Balancer, TcpConnection, trio.SocketStream, trio.SocketStream]:
    """A relay, and its two ends."""
    send, receive = trio.open_memory_channel[trio.SocketStream](1)

    async def serve(stream: trio.SocketStream) -> None:
        await send.send(stream)
        await trio.sleep_forever()

    lb = await lab.balance("tcp", await lab.backend(serve))
    client = await lb.connect()
    backend = await receive.receive()
    await lb.until(lambda: lb.listener.active == 1)
    (relay,) = lb.worker._listeners[0].connections
    assert isinstance(relay, TcpConnection)
    await backend.send_all(b"!")
    await read_exactly(client, 1)
    return lb, relay, client, backend


async def test_what_a_relays_end_does_not_take_is_kept(lab: Lab) -> None:
    with trio.fail_after(PATIENCE):
        lb, relay, client, backend = await relayed(lab)
        half = relay.backend
        send = half.send

        def little(data: bytes) -> int:
            half.send = send
            return send(data[:6])

        half.send = little  # type: ignore[assignment]
        async with client, backend:
            await client.send_all(b"a message to it")
            await lb.until(lambda: half.pending == b"a message to it"[6:])
            half.on_event(OUT)
            assert await read_exactly(backend, 15) == b"a message to it"


async def test_a_relays_end_that_is_gone_is_told_to_the_other_by_rst(lab: Lab) -> None:
    with trio.fail_after(PATIENCE):
        lb, relay, client, backend = await relayed(lab)
        relay.backend.send = _gone  # type: ignore[assignment]
        async with client, backend:
            await client.send_all(b"a message to it")
            with pytest.raises(trio.BrokenResourceError):
                await read_all(client)
    assert (lb.backends[0].active, lb.listener.active) == (0, 0)


def _gone(_data: bytes) -> int:
    raise OSError(errno.EPIPE, "")


async def test_a_reset_behind_data_stays_a_reset(lab: Lab) -> None:
    """FIN is believed when the event tells of it, and this one tells of both: what was cut must not look whole."""
    with trio.fail_after(PATIENCE):
        _lb, _relay, client, backend = await relayed(lab)
        async with backend:
            os.write(client.socket.fileno(), b"half a mess")
            reset(client)
            with pytest.raises(trio.BrokenResourceError):
                await read_all(backend)


async def test_a_relay_is_told_as_over_where_counts_began_to_be_shared_meanwhile(lab: Lab) -> None:
    cells = memoryview(bytearray(2 * 3 * 4)).cast("i")

    async def serve(_stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    lb = await lab.balance("tcp", await lab.backend(serve), await lab.backend(serve))
    with trio.fail_after(PATIENCE):
        async with await lb.connect():
            await lb.until(lambda: lb.backends[0].total == 1)
            async with await lb.connect():
                await lb.until(lambda: lb.backends[1].total == 1)
                listener = lb.worker._listeners[0]
                assert any(one._picks is None for one in listener.connections)  # type: ignore[attr-defined]
                listener.pool.share(Board(cells, 3, 0), 1)
                assert list(cells[:3]) == [0, 1, 1]
                for one in list(listener.connections):
                    one.close(Termination.SHUTDOWN_DATA)
                assert list(cells[:3]) == [0, 0, 0]


async def test_who_was_dialled_first_is_not_dialled_again(lab: Lab) -> None:
    """Though it would be next, and its failures do not count: a a b a, a a b a."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"!")
        await trio.sleep_forever()

    heavy, light = await lab.backend(serve), await lab.backend(serve)
    lb = await lab.balance("tcp", backends=(c.Backend(heavy, weight=3, max_fails=0), c.Backend(light, max_fails=0)))
    dialer = lb.worker._listeners[0].dialer
    connect = dialer.connect

    def refuse(address: c.Address, side: c.TcpSide) -> socket.SocketType:
        if address == heavy:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        return connect(address, side)

    with trio.fail_after(PATIENCE):
        for count in range(4):
            if count == 3:
                dialer.connect = refuse
            async with await lb.connect() as client:
                await read_exactly(client, 1)
    assert [stats.total for stats in lb.backends] == [2, 2]
    assert lb.backends[0].failed == 1


async def test_an_event_that_fills_its_buffer_leaves_before_the_next_one(lab: Lab) -> None:
    def event(version: int, size: int) -> bytes:
        """One in a chunk of its own, `size` bytes with its framing."""
        start = b'{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"%d"},"data":"' % version
        return chunk(start + b"x" * (size - len(start) - 11) + b'"}}\n')

    first, *others = events = [event(version, EVENT) for version in (5, 6, 7)]
    assert {len(one) for one in events} == {EVENT}
    pieces = [HEAD, first, b"".join(others) + LAST]
    send, receive = trio.open_memory_channel[bytes](3)

    async def serve(stream: trio.SocketStream) -> None:
        await next_head(stream)
        async for piece in receive:
            await stream.send_all(piece)

    lb = await lab.balance("http", await lab.backend(serve))
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            await client.send_all(request(TARGET))
            for piece in pieces:
                await send.send(piece)
                assert await read_exactly(client, len(piece)) == piece

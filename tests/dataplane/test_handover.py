"""Connections that move to another worker in the middle of whatever they do: not a byte is lost, nobody notices."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from lbproxy.core import messages
from lbproxy.core.config import Http, Timeouts
from lbproxy.core.handover import HEADER, hello
from tests.dataplane.harness import Balancer, Lab, connects, read_all, read_exactly, read_head
from tests.dataplane.test_exchange import OK, next_head, request
from tests.dataplane.test_watches import HEAD, LAST, TARGET, Masters, chunk, event, payload, sending, until_events

LONG = 60.0  # seconds


def answer(control: socket.socket) -> object:
    return messages.decode(control.recv(messages.MAX_MESSAGE))


async def connect(lab: Lab, balancer: Balancer) -> trio.SocketStream:
    client = await balancer.connect()
    lab.at_end(client.socket.close)
    return client


@asynccontextmanager
async def channel_to(old: Balancer, seconds: float = LONG) -> AsyncIterator[socket.socket]:
    """The successor's end of the conversation."""
    ours, theirs = socket.socketpair()
    socket.send_fds(old.control, [messages.encode(messages.HandOver(seconds))], [ours.fileno()])
    ours.close()
    with theirs:
        yield theirs


async def hand_over(lab: Lab, old: Balancer, seconds: float = LONG) -> tuple[Balancer, messages.TakenOver]:
    """Everything to a new worker; which one, and what it says."""
    new = await lab.successor(old)
    async with channel_to(old, seconds) as theirs:
        socket.send_fds(new.control, [messages.encode(messages.TakeOver())], [theirs.fileno()])
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(new.control)
        taken = answer(new.control)
        await old.ended.wait()
    assert isinstance(taken, messages.TakenOver)
    return new, taken


def counts(balancer: Balancer) -> tuple[int, int, int]:
    """Clients, connections to backends, long streams."""
    return balancer.listener.active, balancer.backends[0].active, balancer.backends[0].long_streams


async def test_a_relay_in_full_flow(lab: Lab) -> None:
    """Both directions at once, with readers so slow that every buffer on the way is full when it moves."""
    size = 8 << 20
    data = random.Random(1).randbytes(size)
    slow = trio.Event()
    received = bytearray()

    async def talk(stream: trio.SocketStream) -> None:
        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await slow.wait()
            while got := await stream.receive_some(65536):
                received.extend(got)

    old = await lab.balance("tcp", await lab.backend(talk))
    client = await connect(lab, old)
    got = bytearray()

    async def send() -> None:
        await client.send_all(data)
        await client.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        got += await read_exactly(client, 1000)
        await old.until(lambda: bool(old.worker._listeners[0].connections))
        (relay,) = old.worker._listeners[0].connections
        await old.until(lambda: bool(relay.client.pending and relay.backend.pending))  # type: ignore[attr-defined]
        new, taken = await hand_over(lab, old)
        assert taken.connections == 1
        assert counts(new) == (1, 1, 0)
        slow.set()
        got += await read_all(client)
    assert got == data
    await new.until(lambda: new.listener.active == 0)
    await new.until(lambda: len(received) == size)
    assert received == data
    line = await new.log_line()
    assert (line["event"], line["end"], line["bytes_in"], line["bytes_out"]) == ("close", "--", size, size)
    assert new.backends[0].active == 0


@pytest.mark.parametrize("who", ["client", "backend"])
async def test_a_relay_that_is_half_closed(lab: Lab, who: str) -> None:
    goes_on = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        assert await read_exactly(stream, 5) == b"hello"
        if who == "backend":
            await stream.send_all(b"bye")
            await stream.send_eof()
            assert await read_all(stream) == b"more"
        else:
            assert await read_all(stream) == b""
            await goes_on.wait()
            await stream.send_all(b"more")

    old = await lab.balance("tcp", await lab.backend(talk))
    client = await connect(lab, old)
    await client.send_all(b"hello")
    if who == "backend":
        assert await read_all(client) == b"bye"
    else:
        await client.send_eof()
    (relay,) = old.worker._listeners[0].connections
    await old.until(lambda: relay.client.eof or relay.backend.eof)  # type: ignore[attr-defined]
    new, _ = await hand_over(lab, old)
    if who == "backend":
        await client.send_all(b"more")
        await client.send_eof()
        assert await read_all(client) == b""
    else:
        goes_on.set()
        assert await read_all(client) == b"more"
    await new.until(lambda: counts(new) == (0, 0, 0))
    assert new.listener.terminations == {"--": 1}


async def test_a_reset_after_the_move_is_passed_on(lab: Lab) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.send_all(await read_exactly(stream, 1))
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)

    old = await lab.balance("tcp", await lab.backend(talk))
    client = await connect(lab, old)
    await client.send_all(b"x")
    assert await read_exactly(client, 1) == b"x"
    new, _ = await hand_over(lab, old)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.socket.close()
    await new.until(lambda: new.listener.active == 0)
    assert new.listener.terminations["CD"] == 1


async def test_a_dial_under_way_is_waited_for(lab: Lab) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.send_all(b"late")

    old = await lab.balance("tcp", lab.black_hole(), await lab.backend(talk), timeouts=Timeouts(connect=0.5))
    client = await connect(lab, old)
    await old.until(lambda: old.listener.active == 1)
    new, taken = await hand_over(lab, old)
    assert taken.connections == 1
    assert await read_all(client) == b"late"
    await client.aclose()
    await new.until(lambda: new.listener.active == 0)


# -- HTTP ----------------------------------------------------------------------------------------------------------


class Slow:
    """A backend that answers its first request when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go = trio.Event(), trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        await next_head(stream)
        self.asked.set()
        await self.go.wait()
        await stream.send_all(OK)
        await polite(stream)


async def polite(stream: trio.SocketStream) -> None:
    """Answers requests until the client has enough."""
    while await next_head(stream):
        await stream.send_all(OK)


@pytest.mark.parametrize("sent", [0, 1, 20])
async def test_a_kept_connection_between_requests_and_within_a_head(lab: Lab, sent: int) -> None:
    old = await lab.balance("http", await lab.backend(polite))
    client = await connect(lab, old)
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK
    await client.send_all(request()[:sent])
    (connection,) = old.worker._listeners[0].connections
    await old.until(lambda: len(connection._in) == sent)  # type: ignore[attr-defined]
    new, taken = await hand_over(lab, old)
    assert taken.connections == 1
    await client.send_all(request()[sent:])
    assert await read_exactly(client, len(OK)) == OK
    assert (new.listener.requests, new.listener.active) == (1, 1)
    await client.aclose()
    await new.until(lambda: new.listener.active == 0)


async def test_clients_that_ask_without_a_pause(lab: Lab) -> None:
    """Nobody is ever found between two requests; they all move, and none of them sees more than an answer late."""
    answers = 0
    stop = False

    async def ask(client: trio.SocketStream) -> None:
        nonlocal answers
        while not stop:
            await client.send_all(request())
            assert await read_exactly(client, len(OK)) == OK
            answers += 1
        await client.aclose()

    old = await lab.balance("http", await lab.backend(polite))
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask, await connect(lab, old))
        await old.until(lambda: answers > 100)
        new, taken = await hand_over(lab, old)
        assert taken.connections == 10
        before = answers
        await new.until(lambda: answers > before + 100)
        stop = True
    assert set(new.listener.terminations) == {"--"}


async def test_a_request_that_is_being_answered_is_waited_for(lab: Lab) -> None:
    slow = Slow()
    old = await lab.balance("http", await lab.backend(slow.serve))
    client = await connect(lab, old)
    await client.send_all(request())
    await slow.asked.wait()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def move() -> None:
            _, taken = await hand_over(lab, old)
            assert taken.connections == 1

        await old.until(lambda: not old.worker._listeners[0].addresses)  # it has begun
        slow.go.set()
        assert await read_exactly(client, len(OK)) == OK
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK


async def test_a_body_under_way_is_waited_for(lab: Lab) -> None:
    async def store(stream: trio.SocketStream) -> None:
        await next_head(stream)
        assert await read_exactly(stream, 10) == b"0123456789"
        await stream.send_all(OK)

    old = await lab.balance("http", await lab.backend(store))
    client = await connect(lab, old)
    await client.send_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234")
    await old.until(lambda: old.backends[0].active == 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand_over, lab, old)
        await old.until(lambda: not old.worker._listeners[0].addresses)
        await client.send_all(b"56789")
        assert await read_exactly(client, len(OK)) == OK


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_answer_to_a_slow_reader(lab: Lab, chunked: bool) -> None:
    """It goes through pipes, and one is full when it moves."""
    size = 16 << 20
    data = random.Random(2).randbytes(size)
    body = chunk(data) + LAST if chunked else data
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"

    async def send(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(head + body)
        await polite(stream)

    old = await lab.balance("http", await lab.backend(send))
    client = await connect(lab, old)
    await client.send_all(request())
    got = await read_exactly(client, len(head) + 300_000)
    (connection,) = old.worker._listeners[0].connections
    await old.until(lambda: bool(connection.out))  # type: ignore[attr-defined]
    new, _ = await hand_over(lab, old)
    assert counts(new) == (1, 1, 0)
    got += await read_exactly(client, len(head) + len(body) - len(got))
    assert got == head + body
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK
    lines = [await new.log_line() for _ in range(2)]
    assert [line["bytes_out"] for line in lines] == [len(got), len(OK)]


@pytest.mark.parametrize("cut", [0, 1, 5, 40, len(chunk(event(6))) - 1])
async def test_a_watch_moves_and_then_outlives_its_backend(lab: Lab, cut: int) -> None:
    """What it has seen moves with it, and so does the event that is there in part; nobody watches or lists again."""
    more, die = trio.Event(), trio.Event()

    async def first(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + chunk(event(5)) + chunk(event(6))[:cut])
        await more.wait()
        await stream.send_all(chunk(event(6))[cut:] + chunk(event(7))[:20])
        await die.wait()

    masters = Masters(first, sending(HEAD + chunk(event(7)), "stay"))
    old = await masters.start(lab)
    client = await connect(lab, old)
    await client.send_all(request(TARGET))
    assert await read_head(client) == HEAD
    body = await until_events(client, 1)
    new, _ = await hand_over(lab, old)
    assert sum(one.long_streams for one in new.backends) == 1
    more.set()
    body += await until_events(client, 2 - body.count(b"}}}\n"))  # one without the chunk's end may be there
    assert len(masters.targets) == 1, "it watches again"
    die.set()
    body += await until_events(client, 1)
    assert payload(body) == event(5) + event(6) + event(7)
    assert "resourceVersion=6" in masters.targets[1]
    assert new.listener.watches_resumed == 1


async def test_a_watch_that_looks_for_another_backend_is_waited_for(lab: Lab) -> None:
    second = trio.Event()

    async def go_on(stream: trio.SocketStream) -> None:
        await second.wait()
        await stream.send_all(HEAD + chunk(event(6)))
        await trio.sleep_forever()

    masters = Masters(sending(HEAD + chunk(event(5))), go_on)
    old = await masters.start(lab)
    client = await connect(lab, old)
    await client.send_all(request(TARGET))
    await read_head(client)
    body = await until_events(client, 1)
    await old.until(lambda: len(masters.targets) == 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand_over, lab, old)
        await old.until(lambda: not old.worker._listeners[0].addresses)
        second.set()
        body += await until_events(client, 1)
    assert payload(body) == event(5) + event(6)


async def test_a_log_without_watch_failover(lab: Lab) -> None:
    more = trio.Event()

    async def write(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(HEAD + b"5\r\nli")
        await more.wait()
        await stream.send_all(b"ne\n\r\n" + LAST)
        await polite(stream)

    old = await lab.balance("http", await lab.backend(write), http=Http(watch_failover=False))
    client = await connect(lab, old)
    await client.send_all(request("/api/v1/namespaces/a/pods/b/log?follow=true"))
    assert await read_exactly(client, len(HEAD) + 5) == HEAD + b"5\r\nli"
    new, _ = await hand_over(lab, old)
    more.set()
    assert await read_exactly(client, 5 + len(LAST)) == b"ne\n\r\n" + LAST
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK
    assert connects(new.backends[0]) == 0, "the connection to the backend was kept"


async def test_an_exec_session(lab: Lab) -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n"

    async def echo(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(switched)
        while got := await stream.receive_some(1000):
            await stream.send_all(got.upper())

    old = await lab.balance("http", await lab.backend(echo))
    client = await connect(lab, old)
    await client.send_all(
        b"POST /api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
    )
    assert (await read_head(client)).startswith(b"HTTP/1.1 101 ")
    await client.send_all(b"one")
    assert await read_exactly(client, 3) == b"ONE"
    new, _ = await hand_over(lab, old)
    assert counts(new) == (1, 1, 1)
    await client.send_all(b"two")
    assert await read_exactly(client, 3) == b"TWO"
    await client.send_eof()
    assert await read_all(client) == b""
    line = await new.log_line()
    assert (line["status"], line["bytes_in"], line["long"], line["end"]) == (101, 6, True, "--")
    await new.until(lambda: counts(new) == (0, 0, 0))


async def test_a_client_that_has_not_taken_the_end_of_an_answer(lab: Lab) -> None:
    """It is not idle where it goes to either."""
    body = b"x" * 65000
    sent = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal sent
        while await next_head(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            sent += 1

    old = await lab.balance("http", await lab.backend(serve), timeouts=Timeouts(keepalive=1.0))
    client = await connect(lab, old)
    await old.until(lambda: bool(old.worker._listeners[0].connections))
    (connection,) = old.worker._listeners[0].connections
    while not connection.out:  # type: ignore[attr-defined]
        before = old.listener.requests
        await client.send_all(request())
        await old.until(lambda before=before: old.listener.requests > before)  # type: ignore[misc]
    new, taken = await hand_over(lab, old)
    assert taken.connections == 1
    new.advance(2.0)
    received = await read_all(client)
    assert received.count(b"x") == sent * len(body)


# -- when it goes wrong ----------------------------------------------------------------------------------------------


async def test_without_a_hello_nothing_changes(lab: Lab) -> None:
    old = await lab.balance("http", await lab.backend(polite))
    async with channel_to(old):
        pass
    client = await connect(lab, old)
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK


async def test_a_successor_of_another_format_gets_nothing(lab: Lab) -> None:
    old = await lab.balance("http", await lab.backend(polite))
    async with channel_to(old) as theirs:
        theirs.setblocking(False)
        theirs.send(hello().replace(b"1", b"2"))
        await trio.lowlevel.wait_readable(theirs)
        assert theirs.recv(1) == b""
    client = await connect(lab, old)
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK


async def test_a_successor_that_dies_leaves_the_rest_here(lab: Lab) -> None:
    """It has taken the first connection, which dies with it; the others go on, and the worker drains."""
    old = await lab.balance("tcp", await lab.backend(_echo))
    clients = [await connect(lab, old) for _ in range(5)]
    for client in clients:
        await client.send_all(b"x")
        assert await read_exactly(client, 1) == b"x"
    async with channel_to(old) as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        theirs.setblocking(False)
        theirs.send(hello())
        await trio.lowlevel.wait_readable(theirs)
        header, fds, _, _ = socket.recv_fds(theirs, HEADER.size, 4)
        assert HEADER.unpack(header)[1] == len(fds) == 2
        await old.until(lambda: not old.worker._listeners[0].addresses)
    for fd in fds:
        socket.close(fd)
    alive = 0
    for client in clients:
        await client.send_all(b"y")
        try:
            alive += await read_exactly(client, 1) == b"y"
        except (AssertionError, trio.BrokenResourceError):
            continue
    assert alive >= 1
    for client in clients:
        await client.aclose()
    with trio.fail_after(10):
        await old.ended.wait()


async def test_a_successor_that_has_gone_before_the_end_is_no_bug(lab: Lab) -> None:
    """What could not move has ended here meanwhile: there is nobody to be told, and nothing to be told of."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    old = await lab.balance("http", await lab.backend(silent))
    client = await connect(lab, old)
    await client.send_all(request())
    await old.until(lambda: old.backends[0].active == 1)
    async with channel_to(old) as theirs:
        theirs.send(hello())
        await old.until(lambda: not old.worker._listeners[0].addresses)
    client.socket.close()
    with trio.fail_after(10):
        await old.ended.wait()


async def _echo(stream: trio.SocketStream) -> None:
    while got := await stream.receive_some(1000):
        await stream.send_all(got)


async def test_what_cannot_move_is_closed_when_the_time_is_over(lab: Lab) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    old = await lab.balance("http", await lab.backend(silent))
    client = await connect(lab, old)
    await client.send_all(request())
    await old.until(lambda: old.backends[0].active == 1)
    _, taken = await hand_over(lab, old, 0.2)
    assert taken.connections == 0
    with pytest.raises(trio.BrokenResourceError):
        await read_all(client)

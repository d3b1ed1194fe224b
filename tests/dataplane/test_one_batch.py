"""What happens in one batch of events beside an exchange that goes the short way, and must not be mistaken for it."""

from __future__ import annotations

import os
import socket
from typing import Any

import trio

from lbproxy.core import config as c
from lbproxy.core.board import Board
from lbproxy.core.config import Timeouts
from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.exchange_state import CLOSED
from lbproxy.dataplane.listener import Connection
from lbproxy.dataplane.moving import take_out
from lbproxy.dataplane.reactor import OUT
from lbproxy.dataplane.sockets import FEW
from tests.dataplane.harness import PATIENCE, Balancer, Lab, read_all, read_exactly, read_head
from tests.dataplane.test_exchange import OK, next_head, request

HEARD = 7  # bytes of an answer that its client takes at first


class Backend:
    """Answers its first request; what it says later it is told, and that is in the same batch as what follows."""

    def __init__(self) -> None:
        self.heads = 0
        self.fd = -1

    async def serve(self, stream: trio.SocketStream) -> None:
        self.fd = stream.socket.fileno()
        while await next_head(stream):
            self.heads += 1
            if self.heads == 1:
                await stream.send_all(OK)

    def say(self, data: bytes) -> None:
        os.write(self.fd, data)


class Bench:
    """A client whose second request, a plain one, is at the backend."""

    def __init__(self, lb: Balancer, backend: Backend, client: trio.SocketStream) -> None:
        self.lb = lb
        self.backend = backend
        self.client = client
        self.listener = lb.worker._listeners[0]
        (connection,) = self.listener.connections
        assert isinstance(connection, HttpConnection)
        self.connection = connection

    def ask(self, *lines: str) -> None:
        os.write(self.client.socket.fileno(), request("/api/v1/pods", *lines))

    async def asked(self, count: int) -> None:
        await self.lb.until(lambda: self.backend.heads == count)

    def takes_little(self) -> None:
        """The client's window has room for HEARD bytes, once."""
        connection = self.connection
        send = connection.send

        def little(data: bytes) -> int:
            connection.send = send
            return send(data[:HEARD])

        connection.send = little  # type: ignore[assignment]

    async def is_behind(self) -> None:
        """The client has a third request under way and has not taken the second answer."""
        self.takes_little()
        self.backend.say(OK)
        self.ask()
        await self.asked(3)
        assert self.connection.out == OK[HEARD:]

    def takes_all(self) -> None:
        self.connection.on_event(OUT)  # the kernel has no reason to say so here

    async def takes(self, data: bytes) -> None:
        assert await read_exactly(self.client, len(data)) == data


async def bench(lab: Lab, timeouts: Timeouts | None = None, **pool: Any) -> Bench:
    backend = Backend()
    lb = await lab.balance("http", await lab.backend(backend.serve), timeouts=timeouts, **pool)
    client = await lb.connect()
    one = Bench(lb, backend, client)
    one.ask()
    await one.takes(OK)
    one.ask()
    await one.asked(2)
    return one


async def test_a_body_that_looks_like_an_answer_stays_a_body(lab: Lab) -> None:
    """Its head was read the long way, when the client had room again; what follows is not looked at for an answer."""
    one = await bench(lab)
    pieces = b"some", OK, b"rest"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(map(len, pieces))
    with trio.fail_after(PATIENCE):
        async with one.client:
            await one.is_behind()
            one.backend.say(head + pieces[0])
            one.takes_all()
            await one.takes(OK + head + pieces[0])
            for piece in pieces[1:]:
                one.backend.say(piece)
                await one.takes(piece)
            one.ask()
            await one.asked(4)
            one.backend.say(OK)
            await one.takes(OK)
    assert one.lb.backends[0].idle == 1
    assert one.lb.listener.requests == 4


def broken(_data: bytes) -> int:
    raise BrokenPipeError


async def test_who_cannot_move_now_is_asked_when_the_answer_is_there(lab: Lab) -> None:
    one = await bench(lab)
    asked: list[Connection] = []
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.listener.on_between_requests = asked.append
            assert take_out(one.connection) is None
            one.backend.say(OK)
            await one.takes(OK)
            await one.lb.until(lambda: asked == [one.connection])


async def test_what_is_behind_an_answer_that_fills_the_buffer_is_seen(lab: Lab) -> None:
    """Nothing would tell of it later, and the next request would have it for an answer."""
    one = await bench(lab)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\nX: "
    filling = head + b"x" * (FEW - 900 - len(head) - 4) + b"\r\n\r\n" + b"y" * 900
    assert len(filling) == FEW
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(filling + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
            await one.takes(filling)
            assert one.lb.backends[0].idle == 0


async def test_an_answer_that_fills_the_buffer_keeps_its_connection(lab: Lab) -> None:
    one = await bench(lab)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\nX: "
    filling = head + b"x" * (FEW - 900 - len(head) - 4) + b"\r\n\r\n" + b"y" * 900
    with trio.fail_after(PATIENCE):
        async with one.client:
            for count in range(3, 6):
                one.backend.say(filling)
                await one.takes(filling)
                one.ask()
                await one.asked(count)
    assert one.lb.backends[0].reused == 4


async def test_an_answer_out_of_turn_does_not_overtake(lab: Lab) -> None:
    """A backend that answers before it was asked, to a client whose last answer is still to be sent."""
    backends = Backend(), Backend()
    lb = await lab.balance("http", *[await lab.backend(backend.serve) for backend in backends])
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            one = Bench(lb, backends[0], client)
            for lines in ((), (), ("Connection: close",)):
                if lines:
                    async with await lb.connect() as other:  # so that the head is known
                        await other.send_all(request("/api/v1/pods", *lines))
                        await lb.until(lambda: backends[0].heads == 2)
                        backends[0].say(OK)
                        await read_all(other)
                else:
                    one.ask()
                    await one.takes(OK)
            one.ask()
            await lb.until(lambda: backends[1].heads == 2)
            backends[1].say(OK)
            one.ask("Connection: close")
            backends[0].say(OK.replace(b"ok", b"no"))
            answers = await read_all(client)
    assert answers.startswith(OK)
    assert answers.endswith(b"\r\n\r\nno")


async def test_a_request_under_way_when_counts_begin_to_be_shared_is_told(lab: Lab) -> None:
    one = await bench(lab)
    cells = memoryview(bytearray(2 * 2 * 4)).cast("i")
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.listener.pool.share(Board(cells, 2, 0), 1)
            one.connection.on_reconfigured()
            assert cells[1] == 1
            one.backend.say(OK)
            await one.takes(OK)
            assert cells[1] == 0


async def test_a_backend_that_does_not_take_a_request_has_it_kept(lab: Lab) -> None:
    one = await bench(lab)
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            await one.takes(OK)
            (connection,) = one.listener.pool.peers[0].idle
            send = connection.send

            def little(data: bytes) -> int:
                connection.send = send
                return int(send(data[:HEARD]))

            connection.send = little
            one.ask()
            await one.lb.until(lambda: bool(connection.out))
            connection.on_event(OUT)
            await one.asked(3)
            one.backend.say(OK)
            await one.takes(OK)


def refuse(*_: object) -> socket.SocketType:
    raise ConnectionRefusedError


async def test_a_request_that_could_not_be_sent_was_not(lab: Lab) -> None:
    one = await bench(lab)
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            await one.takes(OK)
            one.listener.dialer.connect = refuse
            one.listener.pool.peers[0].idle[0].send = broken
            one.ask()
            answer = await read_head(one.client)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: " in answer


async def test_a_known_head_that_fills_the_buffer_may_have_more_behind_it(lab: Lab) -> None:
    one = await bench(lab)
    short = request("/api/v1/pods", "X: ")
    filling = request("/api/v1/pods", "X: " + "x" * (FEW - len(short)))
    with trio.fail_after(PATIENCE):
        async with one.client:
            for count in range(3, 5):
                one.backend.say(OK)
                await one.takes(OK)
                os.write(one.client.socket.fileno(), filling)
                await one.asked(count)
        async with await one.lb.connect() as other:
            await other.send_all(filling + request())
            for count in range(5, 7):
                await one.asked(count)
                one.backend.say(OK)
                assert await read_exactly(other, len(OK)) == OK


async def test_one_that_has_asked_the_short_way_is_not_new(lab: Lab) -> None:
    """A drain waits a moment for a new client's first request, and not for another one of this client."""
    backends = Backend(), Backend()
    lb = await lab.balance("http", *[await lab.backend(backend.serve) for backend in backends])
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            for _ in backends:
                await client.send_all(request())
                await read_exactly(client, len(OK))
        await lb.until(lambda: lb.listener.active == 0)
        async with await lb.connect() as client:
            one = Bench(lb, backends[0], client)
            one.ask()
            await one.asked(2)
            assert one.connection._unnoted
            one.backend.say(OK)
            await one.takes(OK)
            one.connection.drain()
            assert one.connection.phase == CLOSED


async def test_who_was_picked_the_short_way_counts_as_tried(lab: Lab) -> None:
    """Who closes instead of answering is not asked again, though it would be next: a a b a, a a b a."""
    backends = Backend(), Backend()
    heavy, light = [await lab.backend(backend.serve) for backend in backends]
    lb = await lab.balance("http", backends=(c.Backend(heavy, weight=3), c.Backend(light)))
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            one = Bench(lb, backends[0], client)
            for count in range(4):  # a a b a
                one.ask()
                if count != 2:
                    await one.asked(count + (count < 2))
                    if count:
                        one.backend.say(OK)
                await one.takes(OK)
            one.ask()  # a
            await one.asked(4)
            _shut(one.backend.fd)
            await lb.until(lambda: backends[1].heads == 2)
            backends[1].say(OK)
            await one.takes(OK)
    assert backends[0].heads == 4


def _shut(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_RDWR)


async def test_each_request_may_be_sent_again_once(lab: Lab) -> None:
    """Its connection ends before the answer, and the one before had that, too."""
    one = await bench(lab)
    with trio.fail_after(PATIENCE):
        async with one.client:
            for count in (3, 5, 7):
                _shut(one.backend.fd)
                await one.asked(count)
                one.backend.say(OK)
                await one.takes(OK)
                one.ask()
                await one.asked(count + 1)
    assert one.lb.backends[0].retries == {"stale": 3}


async def test_a_client_of_a_listener_that_drains_is_told_to_close(lab: Lab) -> None:
    """One that was new when the drain began asks after it."""
    one = await bench(lab)
    with trio.fail_after(PATIENCE):
        async with one.client:
            one.backend.say(OK)
            await one.takes(OK)
            one.listener.draining = True
            one.ask()
            await one.asked(3)
            assert one.connection.plain
            one.backend.say(OK)
            assert b"\r\nConnection: close\r\n" in await read_all(one.client)

"""Handing connections over to another worker, and taking them: the conversation, and who is asked when.

The successor accepts already when it says hello, on the same listening sockets. From then on this worker accepts no
more, and what it has goes over one by one: at once what can move (moving.py), the rest as soon as it can. The listeners
are asked for again and again: a reload may retire some meanwhile, and another worker may hand its connections over to
this one, which leaves itself.
"""

from __future__ import annotations

import array
import logging
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from socket import SocketType

import trio

from lbproxy.core.handover import HEADER, MAX_FRAME, hello, pack, unpack
from lbproxy.dataplane.listener import Connection, Listener
from lbproxy.dataplane.moving import Moved, State, as_socket, put_in, take_out
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.sockets import reset_on_close

LOOK_AGAIN = 0.02  # seconds until those that could not move are asked again
AT_ONCE = 50  # connections that are taken out before others get a turn
_MOST_FDS = 4
_ROOM = socket.CMSG_SPACE(_MOST_FDS * 4)

log = logging.getLogger(__name__)


class HandoverError(Exception):
    """The other side has gone, or is not one that can be talked to."""


class Handover:
    """This worker's side while it leaves.

    `moved` counts what has gone over; `begun`: no more is accepted here; `under_way`: begun, and not stopped yet.
    """

    def __init__(
        self,
        channel: socket.socket,
        reactor: Reactor,
        listeners: Callable[[], Iterable[Listener]],
        listener_of: Callable[[State], Listener],
        expects_more: Callable[[], bool] = lambda: False,
    ) -> None:
        """`listener_of` is where a connection goes that comes back; `expects_more`: somebody hands over to us."""
        channel.setblocking(False)
        self.moved = 0
        self.begun = False
        self.under_way = False
        self._channel = trio.socket.from_stdlib_socket(channel)
        self._reactor = reactor
        self._listeners = listeners
        self._listener_of = listener_of
        self._expects_more = expects_more
        self._ready: deque[Moved] = deque()  # taken out when they came to an end of an exchange
        self._wake = trio.Event()

    async def wait_for_hello(self) -> None:
        """Until the successor is there. Raises HandoverError if it never will be, or is of another format."""
        expected = hello()
        said = await _read(self._channel, len(expected))
        if said != expected:
            raise HandoverError(f"the successor says {said!r}, not {expected!r}")

    async def run(self) -> None:
        """Hand over until nothing is left. Raises HandoverError."""
        self.begun = self.under_way = True
        for listener in self._listeners():
            listener.close(listener.addresses)
        while any(listener.connections for listener in self._listeners()) or self._ready or self._expects_more():
            for listener in self._listeners():
                listener.on_between_requests = self._take
                for connection in list(listener.connections):
                    self._take(connection)
                    if len(self._ready) >= AT_ONCE:
                        await self._send_all()
            await self._send_all()
            with trio.move_on_after(LOOK_AGAIN):
                await self._wake.wait()
        with suppress(OSError):  # it has gone, with all that it was given
            await self._send({}, [])

    def stop(self) -> None:
        """No more of it: connections go on here, and what had been taken out and not sent is back.

        If they have no time left they end as all others do, and not by this process's end: that would be a FIN, and
        make of half an answer a whole one.
        """
        for listener in self._listeners():
            listener.on_between_requests = None
        self._channel.close()
        self._reactor.refresh()
        for state, sockets in self._ready:
            _adopt(state, sockets, self._listener_of)
        self._ready.clear()
        self._reactor.settle()
        self.under_way = False

    def _take(self, connection: Connection) -> None:
        moved = take_out(connection)
        if moved is not None:
            self._ready.append(moved)
            self._wake.set()

    async def _send_all(self) -> None:
        self._wake = trio.Event()
        while self._ready:
            state, sockets = self._ready[0]
            try:
                await self._send(state, sockets)
            except OSError as error:
                raise HandoverError(f"the successor has gone: {error}") from error
            self._ready.popleft()
            self.moved += 1
            for sock in sockets:
                sock.close()

    async def _send(self, state: State, sockets: list[SocketType]) -> None:
        body = pack(state)
        fds = array.array("i", [sock.fileno() for sock in sockets])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if sockets else []
        # The header goes by itself, so that its reader, who asks for no more, gets its descriptors and no others.
        await self._channel.sendmsg([HEADER.pack(len(body), len(fds))], ancillary)
        view = memoryview(body)
        while view:
            view = view[await self._channel.send(view) :]


async def take_over(
    channel: socket.socket, listener_of: Callable[[State], Listener], reactor: Reactor
) -> AsyncGenerator[None]:
    """Say hello, and take what comes until its end; yields for each connection. Raises HandoverError."""
    channel.setblocking(False)
    with trio.socket.from_stdlib_socket(channel) as stream:
        try:
            await stream.send(hello())
        except OSError as error:
            raise HandoverError(f"the predecessor has gone: {error}") from error
        while True:
            state, sockets = await _receive(stream)
            if not state:
                return
            reactor.refresh()
            if _adopt(state, sockets, listener_of):
                yield
            reactor.settle()


def _adopt(state: State, sockets: list[SocketType], listener_of: Callable[[State], Listener]) -> bool:
    try:
        listener = listener_of(state)
        connection = put_in(listener, state, sockets)
    except (KeyError, ValueError, TypeError) as error:
        log.warning("a connection could not be taken over, and is closed: %s", error)
        for sock in sockets:
            reset_on_close(sock)
            sock.close()
        return False
    if listener.draining:
        connection.drain()
    return True


async def _receive(stream: trio.socket.SocketType) -> tuple[State, list[SocketType]]:
    try:
        data, ancillary, _flags, _sender = await stream.recvmsg(HEADER.size, _ROOM)
        fds = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if not data:
            raise HandoverError("the predecessor has gone")
        if len(data) < HEADER.size:
            data += await _read(stream, HEADER.size - len(data))
        size, count = HEADER.unpack(data)
        if size > MAX_FRAME or count != len(fds):
            raise HandoverError(f"a frame of {size} bytes and {len(fds)} of {count} descriptors")
        sockets = [as_socket(fd) for fd in fds]
        return unpack(await _read(stream, size)), sockets
    except (OSError, ValueError) as error:
        raise HandoverError(f"the predecessor: {error}") from error


async def _read(stream: trio.socket.SocketType, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            got = await stream.recv(size - len(data))
        except OSError as error:
            raise HandoverError(str(error)) from error
        if not got:
            raise HandoverError("the other side has gone")
        data += got
    return data

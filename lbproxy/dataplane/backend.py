"""A connection to a backend in http mode: one exchange at a time, kept alive in between.

While it idles it sits in its peer's `idle` list, newest last, and any event on it means that the backend has closed
it (or talks out of turn): it is closed at once, so a stale one is rarely met. It is closed by us before the
apiserver would (45 s against its 90 s): who closes first cannot be surprised.
"""

from __future__ import annotations

import socket
from socket import SocketType
from typing import TYPE_CHECKING

from lbproxy.core.config import Idle
from lbproxy.core.http1 import CHUNKED, UNTIL_CLOSE
from lbproxy.core.peer import Peer
from lbproxy.dataplane.pipes import ENOUGH, SIZE, SMALLEST
from lbproxy.dataplane.reactor import ERR, HUP, IN_OUT, OUT, RDHUP, Reactor
from lbproxy.dataplane.response import AWAITING_HEAD, DONE, Response
from lbproxy.dataplane.sockets import FEW, reset_on_close
from lbproxy.dataplane.timers import NEVER, UNFILED

if TYPE_CHECKING:
    from lbproxy.dataplane.exchange import Exchange

CHUNK = 65536  # bytes per recv()
EVENT = 4096  # bytes per recv() of a watch that comes in single events
TURNS = 16  # full reads before other connections get a turn
BULK = 2  # full reads in a row that make it bulk, for pipes.py


class BackendConnection(Response):
    """One socket to a backend. `client` is the connection whose exchange it serves, or None while idle."""

    __slots__ = (
        "_hung_up",
        "_idle_config",
        "_in_bulk",
        "_reactor",
        "_recv",
        "_retire_at",
        "_room",
        "deadline",
        "filed",
        "out",
        "requests",
        "send",
        "sock",
        "source",
    )

    def __init__(self, reactor: Reactor, sock: SocketType, peer: Peer, idle: Idle, max_header: int) -> None:
        super().__init__(peer, max_header)
        self.sock = sock
        self.out = b""  # what the backend has not taken yet
        self.requests = 0
        self.source = ""  # our own address, for the access log, if there is one
        self._retire_at = reactor.timers.now + idle.age
        self.deadline = NEVER
        self.filed = UNFILED
        self._reactor = reactor
        self._recv = sock.recv
        self.send = sock.send
        self._room = FEW
        self._hung_up = False
        self._in_bulk = False
        self._idle_config = idle
        reactor.handlers[sock.fileno()] = self.on_event

    # -- the request's way ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Send; what is not taken is kept, and then False. Raises OSError when the connection is broken."""
        send = self.send
        try:
            sent = send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self.out = data[sent:]
        return False

    # -- the response's way --------------------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        client = self.client
        if client is None:
            # The event may be an old one, of bytes that were read when the client had room for them again.
            if events != OUT and not self.is_alive():
                self.discard()
            return
        if events == IN_OUT and not (self.out or client.out or self._in_bulk):  # as read(), without the loop
            watch = client.watch
            # A watch keeps the piece that its last event came in: better one that was not cut from a large buffer.
            size = self._room if watch is None else EVENT
            recv = self._recv  # by name: a call of a slot that is no method takes Python's slow way
            try:
                data = recv(size)
            except BlockingIOError:
                return
            except OSError as error:
                self._reactor.send_all()
                self._broken(error.errno)
                return
            if client.plain:
                if client.answer_plain(data, size):
                    return
            elif watch is not None and self.left == CHUNKED and watch.body.passes(data):
                # As client.write(), for an event that goes to a client with room.
                client._bytes_out += len(data)
                self._reactor.outbox.append((client.send, data, client))
                if len(data) == size:
                    self.read()
                return
            self._reactor.send_all()
            if self.client is client:
                self._take_up(client, data, size)
            return
        self._reactor.send_all()
        if self.client is not client:
            return
        if events & OUT and self.out:
            try:
                if self.write(self.out):
                    self.out = b""
                    client.on_backend_writable()
            except OSError as error:
                self._broken(error.errno)
                return
        if events != OUT and self.client is client:
            if events & (RDHUP | HUP | ERR):
                self._hung_up = True
            self.read()

    def _take_up(self, client: Exchange, data: bytes, size: int) -> None:
        """Forward what was read, at most `size` bytes, and read on if there may be more."""
        self._forward(client, data)
        if len(data) == size:
            self._room = CHUNK
            if self.client is client:
                self.read()
            elif self in self.peer.idle and not self.is_alive():  # it talks out of turn, and no event will say so
                self.discard()

    def _forward(self, client: Exchange, data: bytes) -> None:
        if not data:
            self._on_eof()
        elif self.left == AWAITING_HEAD:
            self._on_head_bytes(client, data)
        else:
            self._on_body(data)

    def read(self) -> None:
        """Move what the backend has to the client, until there is no more or the client is full."""
        self._reactor.send_all()
        client = self.client
        recv = self._recv
        for turn in range(TURNS):
            if client is None or client.out:
                return  # the client's flush calls again
            if (self._in_bulk or turn == BULK) and self._splice(client):
                return
            try:
                data = recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._broken(error.errno)
                return
            self._forward(client, data)
            if not data or self.client is not client or (len(data) < CHUNK and not self._hung_up):
                return
        self._reactor.again(self.on_event)

    def _splice(self, client: Exchange) -> bool:
        """Go on as read(), by a pipe, while much of the body is left; False if copying has to go on."""
        reactor = self._reactor
        pipe = reactor.pipes.take() if self._bulk() >= SMALLEST else None
        self._in_bulk = pipe is not None  # the next read starts with a pipe, too
        if pipe is None:
            return False
        fd = self.sock.fileno()
        try:
            for _ in range(TURNS):
                most = self._bulk()
                if most < ENOUGH:
                    self._in_bulk = False
                    return False
                got = pipe.fill(fd, min(most, SIZE))
                if not got:
                    self._on_eof()
                    return True
                if self.left > 0:
                    self.left -= got
                elif self._walk is not None:
                    self._walk.skip(got)
                if not client.write_pipe(pipe, got):
                    pipe = None  # it is the client's now
                if not self.left and self.client is client:
                    client.on_response_end()
                if pipe is None or self.client is not client:
                    return True
                if got < ENOUGH:
                    self._in_bulk = False
                    return not self._hung_up
            reactor.again(self.on_event)
        except BlockingIOError:
            return True
        except OSError as error:
            self._broken(error.errno)
            return True
        finally:
            if pipe is not None:
                reactor.pipes.give(pipe)
        return True

    def _bulk(self) -> int:
        """Bytes of the body that are to be forwarded as they come, whatever they are."""
        if self.left > 0:
            return self.left
        return self._walk.in_chunk if self._walk is not None and self.client and not self.client.wants_plain_body else 0

    def release(self) -> None:
        """The exchange is over: keep the connection if it can be used again."""
        self.client = None
        self._in_bulk = False
        now = self._reactor.timers.now
        if not self._persistent or self._hung_up or self.left or self.out or now > self._retire_at:
            self.close()
            return
        idle = self._idle_config
        if idle.requests and self.requests >= idle.requests:
            self.close()
            return
        kept = self.peer.idle
        kept.append(self)
        if len(kept) > idle.max:
            kept[0].discard()
        self.deadline = deadline = now + idle.timeout
        if deadline < self.filed:
            self._reactor.timers.file(self, deadline)

    def is_alive(self) -> bool:
        """Ask the kernel: nothing to read and no FIN. For requests that must not meet a stale connection."""
        try:
            self._recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def discard(self) -> None:
        """Close an idle connection."""
        if self in self.peer.idle:
            self.peer.idle.remove(self)
        self.close()

    def close(self, *, reset: bool = False) -> None:
        """Close now."""
        self.client = None
        self.deadline = NEVER
        self.out = b""
        if reset:
            reset_on_close(self.sock)
        self._reactor.close(self.sock)

    def on_unsent(self, rest: bytes) -> None:
        """The backend does not take all of a request that was in the outbox."""
        if self.client is not None:
            self.out = rest

    def on_send_failed(self, error: OSError) -> None:
        """It has gone before the request that was in the outbox."""
        client = self.client
        if client is not None:
            client.on_backend_gone(answered=False, reset=True, sent=False)

    def hand_over(self) -> tuple[SocketType, bytes]:
        """Give the socket to a relay (after 101), with what is still to be sent to the backend."""
        self.client = None
        out, self.out = self.out, b""
        return self.sock, out

    def on_timeout(self) -> None:
        """It has idled long enough."""
        if self.client is None:
            self.discard()

    def on_bug(self) -> None:
        client = self.client
        if client is not None:
            client.on_bug()
        else:
            self.close()

    def _on_eof(self) -> None:
        client = self.client
        assert client is not None
        if self.left == UNTIL_CLOSE:
            self.left = DONE
            client.on_response_end()
        else:
            client.on_backend_gone(answered=self.begun, reset=False)

    def _broken(self, code: int | None) -> None:
        client = self.client
        if client is not None:
            client.on_backend_gone(answered=self.begun, reset=True)

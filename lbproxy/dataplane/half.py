"""One direction of a relay, faithfully: FIN stays FIN, RST stays RST.

A direction owns no buffer. What one recv() got is sent with its batch; only what the other side does not take is kept,
and then nothing more is read until that is gone. So a stalled reader stops the writer by TCP's own flow control, at
most CHUNK bytes are held per direction, and an idle relay holds none.

The rules of edge-triggered epoll shape the code: after a short read the socket is empty and the next bytes raise a
new event, so there is no second recv(), unless the event said that the peer has closed (RDHUP): then EOF is read, or
inferred.
"""

from __future__ import annotations

import socket
from socket import SocketType
from typing import TYPE_CHECKING

from lbproxy.core.termination import Termination
from lbproxy.dataplane.pipes import ENOUGH, IN_PIPE, Pipe
from lbproxy.dataplane.reactor import ERR, HUP, IN, IN_OUT, OUT, PRI, RDHUP
from lbproxy.dataplane.sockets import FEW, MSG_MORE, pending_error

if TYPE_CHECKING:
    from lbproxy.dataplane.relay import Relay

CHUNK = 65536  # bytes per recv(): the largest that costs one allocation from malloc's arena, not an mmap
BULK = 2  # full chunks in a row that make it bulk, for pipes.py
TURNS = 16  # full chunks one direction may move before others get a turn
LOOK = IN | HUP  # as an event: there may be a FIN behind what is to be read, or not
MORE = RDHUP | HUP | PRI  # a short read was perhaps not the last
UNSURE = HUP | ERR | PRI  # ... and if it has seen all, FIN may not be what follows


class Half:
    """One side of a relay: its socket, and what is still to be sent to it."""

    __slots__ = (
        "bulk",
        "bytes_read",
        "eof",
        "other",
        "outbox",
        "pending",
        "pipe",
        "recv",
        "relay",
        "room",
        "send",
        "shut",
        "sock",
    )

    def __init__(self, relay: Relay, sock: SocketType) -> None:
        self.relay = relay
        self.sock = sock
        self.recv = sock.recv
        self.send = sock.send
        self.outbox = relay.reactor.outbox
        self.room = FEW
        self.other: Half = self  # set by Relay.join
        self.pending = b""  # to be sent to it; IN_PIPE if that is in `pipe`
        self.pipe: Pipe | None = None
        self.bulk = False  # its last reads brought so much that the next one starts with a pipe
        self.bytes_read = 0
        self.eof = False  # it has sent FIN
        self.shut = False  # we have sent FIN to it

    def on_event(self, events: int) -> None:
        other = self.other
        if events == IN_OUT and not (self.bulk or self.pending or other.pending):
            # As pump(), of a message that comes alone, which is what a kept connection sees: a call and a loop less.
            # No `eof` to look for: with FIN the event would say RDHUP.
            recv, most = self.recv, self.room
            try:
                data = recv(most)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(self, error.errno)
                return
            size = len(data)
            if not size:
                self.on_eof()
                return
            self.bytes_read += size
            self.outbox.append((other.send, data, other))
            if size == most:
                self.room = CHUNK
                self.pump()
            return
        if events & OUT and self.pending:
            self.flush()
        if events != OUT:
            self.pump(events)

    def pump(self, events: int = IN) -> None:
        """Move what this side has to the other, until it is empty or the other is full."""
        if self.outbox and not self.eof:
            self.relay.reactor.send_all()
        other = self.other
        if other.pending or self.eof:
            # not reading: a reset would go unnoticed if it were not asked for
            if events & ERR and self.relay.open:
                self._fail(self, pending_error(self.sock))
            return
        recv, send = self.recv, other.send
        # With FIN behind the data they leave as one segment: 1.4 µs for us, and as much for who receives them. The FIN
        # must follow at once, since the kernel waits for it with the data: so only if the event has told of it.
        flags = MSG_MORE if events & RDHUP else 0
        for turn in range(TURNS):
            if (self.bulk or turn == BULK) and self._splice(events):
                return
            try:
                data = recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(self, error.errno)
                return
            if not data:
                self.on_eof()
                return
            size = len(data)
            self.bytes_read += size
            try:
                sent = send(data, flags)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._fail(other, error.errno)
                return
            if sent < size:
                other.pending = data[sent:]
                return
            if size < CHUNK:
                if not events & MORE:
                    return
                if not events & UNSURE:
                    # FIN had come when the event was reported, and all that was before it has now been read: 1 µs less
                    # than to read the end, too. (HAProxy trusts EPOLLRDHUP in the same way.)
                    self.on_eof()
                    return
        self.relay.reactor.again(self.resume)

    def _splice(self, events: int) -> bool:
        """Go on as pump(), by a pipe, while there is much to read; False if copying has to go on."""
        relay, other = self.relay, self.other
        pipes = relay.reactor.pipes
        pipe = pipes.take()
        if pipe is None:
            return False
        self.bulk = True
        from_fd, to_fd = self.sock.fileno(), other.sock.fileno()
        who = self
        try:
            for _ in range(TURNS):
                who = self
                got = pipe.fill(from_fd)
                if not got:
                    self.on_eof()
                    return True
                self.bytes_read += got
                who = other
                if not pipe.drain(to_fd):
                    other.pending, other.pipe = IN_PIPE, pipe
                    pipe = None
                    return True
                if got < ENOUGH:
                    self.bulk = False
                    return not events & MORE
            relay.reactor.again(self.resume)
        except BlockingIOError:
            return True
        except OSError as error:
            self._fail(who, error.errno)
            return True
        finally:
            if pipe is not None:
                pipes.give(pipe)
        return True

    def resume(self, _events: int = IN) -> None:
        """Read on after a pause. A FIN may have come meanwhile, and its event is gone: look for it."""
        self.pump(LOOK)

    def flush(self) -> None:
        """Send what is pending; when all is gone, go on reading from the other side."""
        try:
            if self.pipe is not None:
                if not self.pipe.drain(self.sock.fileno()):
                    return
                self.release_pipe()
                sent = len(IN_PIPE)
            else:
                sent = self.send(self.pending)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(self, error.errno)
            return
        self.pending = self.pending[sent:]
        if self.pending:
            return
        if self.other.eof:
            self.shut_down()
        else:
            self.other.resume()

    def release_pipe(self) -> None:
        if self.pipe is not None:
            self.relay.reactor.pipes.give(self.pipe)
            self.pipe = None

    def on_eof(self) -> None:
        self.eof = True
        if not self.other.pending:
            self.other.shut_down()

    def shut_down(self) -> None:
        """Pass on a FIN; the relay is over when both have gone through."""
        if self.shut or not self.relay.open:
            return
        self.shut = True
        if self.other.shut:
            self.relay.end(Termination.NORMAL)
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(self, error.errno)
            return
        self.relay.on_half_closed()

    def on_bug(self) -> None:
        self.relay.on_bug()

    def on_unsent(self, rest: bytes) -> None:
        """The socket does not take all of what was in the outbox."""
        self.pending = rest

    def on_send_failed(self, error: OSError) -> None:
        """It has gone before what was in the outbox."""
        self._fail(self, error.errno)

    def _fail(self, who: Half, code: int | None) -> None:
        if code:
            self.relay.broken(who, code)

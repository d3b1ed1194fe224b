"""Bytes between a client and a backend, faithfully: FIN stays FIN, RST stays RST, each direction by itself.

A direction owns no buffer. What one recv() got is sent at once; only what the other side does not take is kept, and
then nothing more is read until that is gone. So a stalled reader stops the writer by TCP's own flow control, at most
CHUNK bytes are held per direction, and an idle relay holds none.

The rules of edge-triggered epoll shape the code: after a short read the socket is empty and the next bytes raise a
new event, so there is no second recv(), unless the event said that the peer has closed (RDHUP): then EOF is read.
"""

from __future__ import annotations

import errno
import socket
from socket import SocketType

from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.pipes import ENOUGH, IN_PIPE, Pipe
from lbproxy.dataplane.reactor import ERR, HUP, IN, OUT, PRI, RDHUP, Reactor
from lbproxy.dataplane.sockets import FEW, pending_error, reset_on_close
from lbproxy.dataplane.timers import NEVER, UNFILED

CHUNK = 65536  # bytes per recv(): the largest that costs one allocation from malloc's arena, not an mmap
BULK = 2  # full chunks in a row that make it bulk, for pipes.py
TURNS = 16  # full chunks one direction may move before others get a turn
IN_OUT = IN | OUT  # what epoll says of a socket that has bytes to read and nothing else
LOOK = IN | HUP  # as an event: there may be a FIN behind what is to be read, or not
MORE = RDHUP | HUP | PRI  # a short read was perhaps not the last
UNSURE = HUP | ERR | PRI  # ... and if it has seen all, FIN may not be what follows
MSG_MORE = int(socket.MSG_MORE)  # an Enum member costs a call wherever C wants an int
QUARTERS = 4  # an idle timeout is looked at four times: it fires after 1 to 1.25 times its value


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


class Relay:
    """A client and a backend joined. `end` is called once, with why; subclasses account for it in `on_end`."""

    __slots__ = (
        "_quiet",
        "_seen",
        "backend",
        "client",
        "deadline",
        "filed",
        "half_close_timeout",
        "idle_timeout",
        "open",
        "peer",
        "reactor",
    )

    def __init__(self, reactor: Reactor, idle_timeout: float, half_close_timeout: float) -> None:
        self.reactor = reactor
        self.deadline = NEVER
        self.filed = UNFILED
        self.open = True
        self.idle_timeout = idle_timeout
        self.half_close_timeout = half_close_timeout
        self.client: Half
        self.backend: Half
        self.peer: Peer
        self._seen = 0
        self._quiet = 0

    def join(self, client: SocketType, backend: SocketType) -> None:
        """Take over two connected sockets; both must be watched, or be put under watch, by the caller."""
        self.client = Half(self, client)
        self.backend = Half(self, backend)
        self.client.other, self.backend.other = self.backend, self.client
        if self.idle_timeout:
            self.reactor.timers.arm_briefly(self, self.idle_timeout / QUARTERS)

    @property
    def bytes_moved(self) -> int:
        return self.client.bytes_read + self.backend.bytes_read

    @property
    def stream_kind(self) -> str:
        return ""

    def on_reconfigured(self) -> None:
        """Nothing to do: what has begun goes on as it began."""

    @property
    def can_leave(self) -> bool:
        return False

    def put_out(self, peer: Peer) -> None:
        self.end(Termination.BACKEND_DRAINED)

    def leave(self, peer: Peer, quiet: float) -> bool:
        """A relay cannot: what is said in it is not ours to end."""
        return False

    def finish(self, quiet: float) -> bool:
        """As leave()."""
        return False

    def on_half_closed(self) -> None:
        if self.half_close_timeout:
            self._seen = self.client.bytes_read + self.backend.bytes_read
            self._quiet = 0
            self.reactor.timers.arm_briefly(self, self.half_close_timeout / QUARTERS)

    def on_timeout(self) -> None:
        """A quarter of the idle time is over: count quiet quarters by the byte counters, at no cost per byte."""
        moved = self.client.bytes_read + self.backend.bytes_read
        half_closed = self.client.shut or self.backend.shut
        timeout = self.half_close_timeout if half_closed else self.idle_timeout
        if moved != self._seen:
            self._seen, self._quiet = moved, 0
        else:
            self._quiet += 1
        if self._quiet >= QUARTERS:
            # whoever has to speak or to read is the one that is late
            backend_late = self.backend.pending or (self.client.eof and not self.client.pending)
            self.end(Termination.BACKEND_TIMEOUT_DATA if backend_late else Termination.CLIENT_TIMEOUT_DATA)
        elif timeout:
            self.reactor.timers.arm(self, timeout / QUARTERS)

    def broken(self, half: Half, code: int) -> None:
        """A reset, or the kernel gave a peer up: the other side learns of it by RST."""
        late = code == errno.ETIMEDOUT
        if half is self.client:
            self.end(Termination.CLIENT_TIMEOUT_DATA if late else Termination.CLIENT_ABORT_DATA)
        else:
            self.end(Termination.BACKEND_TIMEOUT_DATA if late else Termination.BACKEND_ABORT_DATA)

    def end(self, termination: Termination) -> None:
        """Close both sides, with FIN when all was said and with RST otherwise."""
        if not self.open:
            return
        self.open = False
        self.deadline = NEVER
        reactor = self.reactor
        reactor.timers.brief.discard(self)
        if termination is not Termination.NORMAL:
            reset_on_close(self.client.sock)
            reset_on_close(self.backend.sock)
        reactor.close(self.client.sock)
        reactor.close(self.backend.sock)
        self.client.eof = self.backend.eof = True  # a resumed pump finds nothing to do
        self.client.pending = self.backend.pending = b""
        self.client.release_pipe()
        self.backend.release_pipe()
        self.on_end(termination)
        self.come_apart()

    def come_apart(self) -> None:
        """It is over: let reference counts free it, at once and without a search for cycles."""
        client, backend = self.client, self.backend
        client.relay = backend.relay = OVER
        client.other = backend.other = NOBODY

    def on_bug(self) -> None:
        self.end(Termination.INTERNAL)

    def on_end(self, termination: Termination) -> None:
        """For subclasses: count, log, give the backend back."""
        raise NotImplementedError


class _Over(Relay):
    """What an ended relay's halves belong to: a callback that was already on its way finds nothing to do."""

    __slots__ = ()

    def __init__(self) -> None:
        self.open = False

    def end(self, termination: Termination) -> None:
        """It has ended."""

    def broken(self, half: Half, code: int) -> None:
        """So it has."""


class _Nobody(Half):
    __slots__ = ()

    def __init__(self) -> None:
        self.pending = b"-"  # so nothing is read for it
        self.outbox = []
        self.eof = self.shut = True


OVER = _Over()
NOBODY = _Nobody()

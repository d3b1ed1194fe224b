"""Bytes between a client and a backend: two halves (half.py), their timeouts, and how they end."""

from __future__ import annotations

import errno
from socket import SocketType

from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.half import Half
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.sockets import reset_on_close
from lbproxy.dataplane.timers import NEVER, UNFILED

QUARTERS = 4  # an idle timeout is looked at four times: it fires after 1 to 1.25 times its value


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

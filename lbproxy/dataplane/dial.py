"""Connecting to a backend, and to the next one when that fails, inside one client connection or request."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from socket import SocketType
from typing import Protocol

from lbproxy.core.config import Address, TcpSide, Timeouts
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Selection
from lbproxy.core.termination import Termination
from lbproxy.dataplane.reactor import ERR, HUP, OUT, Reactor
from lbproxy.dataplane.sockets import AF_UNIX, open_connection, pending_error, set_liveness
from lbproxy.dataplane.timers import NEVER, UNFILED

_RESULTS = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}  # of messages.DIALS
# The local side ran out of something: the backend is not to blame, and another one would fare no better.
_OWN_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

LATE = 1.0  # seconds; at most twice as late

Report = Callable[[Peer, str], None]


class Dialer:
    """What all dials of one listener share."""

    __slots__ = (
        "_fresh",
        "_older",
        "connect",
        "deadline",
        "filed",
        "reactor",
        "report",
        "retry_deadline",
        "side",
        "timeouts",
    )

    def __init__(
        self, reactor: Reactor, side: TcpSide, timeouts: Timeouts, retry_deadline: float, report: Report
    ) -> None:
        self.reactor = reactor
        self.side = side
        self.timeouts = timeouts
        self.retry_deadline = retry_deadline
        self.report = report
        self.connect: Callable[[Address, TcpSide], SocketType] = open_connection  # the simulation has another
        self.deadline = NEVER
        self.filed = UNFILED
        self._fresh: list[SocketType] = []  # connected since the last turn
        self._older: list[SocketType] = []

    def watch_over(self, sock: SocketType) -> None:
        """Set the options that find a silent peer, once the connection is LATE seconds old.

        They are five system calls, and most connections of a busy listener are over before.
        """
        if not self._fresh and self.deadline == NEVER:
            self.reactor.timers.arm(self, LATE)
        self._fresh.append(sock)

    def on_timeout(self) -> None:
        for sock in self._older:
            if sock.fileno() >= 0 and sock.family != AF_UNIX:
                set_liveness(sock, self.side)
        self._older, self._fresh = self._fresh, []
        if self._older:
            self.reactor.timers.arm(self, LATE)


class Owner(Protocol):
    """For whom is dialled. Exactly one of its two methods is called, once."""

    @property
    def selection(self) -> Selection:
        """The walk through the backends. Most dials go well without a look at it, so it may be made when asked for."""

    def on_connected(self, sock: SocketType, peer: Peer) -> None:
        """A connection stands.

        The reactor watches it, for the dial: the owner puts its own handler into `reactor.handlers`.
        """

    def on_dial_failed(self, termination: Termination) -> None:
        """Nobody was reached, so nothing was sent."""


class Dial:
    """One walk through a selection until a connection stands.

    Failures are reported for the health checks, which look at once (nginx has no such link).
    """

    __slots__ = (
        "_dialer",
        "_give_up_at",
        "_last",
        "_owner",
        "_reactor",
        "_sock",
        "_started",
        "_was_usable",
        "deadline",
        "filed",
        "peer",
    )

    def __init__(self, dialer: Dialer, owner: Owner) -> None:
        self.peer: Peer | None = None
        self.deadline = NEVER
        self.filed = UNFILED
        self._dialer = dialer
        self._reactor = dialer.reactor
        self._give_up_at = dialer.reactor.timers.now + dialer.retry_deadline
        self._owner = owner
        self._sock: SocketType | None = None
        self._started = 0.0
        self._was_usable = False
        self._last = Termination.NO_BACKEND

    def start(self, first: Peer | None = None) -> None:
        """Begin with `first`, who has been picked already, or with the selection's next pick."""
        peer = first if first is not None else self._pick()
        while peer is not None:
            self.peer = peer
            self._was_usable = peer.usable
            try:
                self._sock = self._dialer.connect(peer.address, self._dialer.side)
            except OSError as error:
                peer.stats.dialled(_result(error.errno), 0.0)
                if error.errno in _OWN_FAULT:
                    self._own_fault(peer)
                    return
                self._blame(peer, Termination.BACKEND_REFUSED, error.strerror or str(error))
                peer = self._pick()
                continue
            timers = self._reactor.timers
            self._started = now = timers.now
            delay, left = self._dialer.timeouts.connect, self._give_up_at - now
            if left < delay:
                delay = left if left > 0.0 else 0.0
            timers.arm_briefly(self, delay)
            self._reactor.add(self._sock.fileno(), self.on_event)
            return
        self.peer = None
        self._owner.on_dial_failed(self._last)

    def abort(self) -> None:
        """The client went away: neither a success nor a failure of the backend."""
        self.deadline = NEVER
        self._reactor.timers.brief.discard(self)
        if self._sock is not None:
            self._reactor.close(self._sock)
            self._sock = None
        if self.peer is not None:
            self._owner.selection.release(self.peer)
            self.peer = None

    def on_event(self, events: int) -> None:
        sock, peer = self._sock, self.peer
        if sock is None or peer is None:
            return
        error = pending_error(sock) if events & (ERR | HUP) else 0  # nothing else tells of a connect that failed
        if error:
            peer.stats.dialled(_result(error), self._reactor.timers.now - self._started)
            self._failed(Termination.BACKEND_REFUSED, os.strerror(error))
        elif events & OUT:
            self.deadline = NEVER
            self._reactor.timers.brief.discard(self)
            self._sock = None
            peer.connects.note(self._reactor.timers.now - self._started)
            if not peer.usable and self._is_to_be_left(peer):
                self._reactor.close(sock)
                self._owner.selection.release(peer)
                self.start()
                return
            if peer.fails:
                self._owner.selection.succeed(peer, self._reactor.second)
            self._dialer.watch_over(sock)
            fd = sock.fileno()
            self.peer = None  # from here on its place is the caller's to give back, after a bug as well
            self._owner.on_connected(sock, peer)
            if events & ~OUT:
                # A backend that speaks or closes at once: the event that said so is this one, and none follows.
                handler = self._reactor.handlers.get(fd)
                if handler is not None:
                    self._reactor.again(handler, events & ~OUT)

    def on_timeout(self) -> None:
        waited = self._reactor.timers.now - self._started
        if self.peer is not None:
            self.peer.stats.dialled("timeout", waited)
        self._failed(Termination.BACKEND_TIMEOUT_CONNECT, f"no answer to TCP connect in {waited:.1f} s")

    def on_bug(self) -> None:
        self.abort()
        self._owner.on_dial_failed(Termination.INTERNAL)

    def _pick(self) -> Peer | None:
        if self.peer is not None and self._reactor.timers.now >= self._give_up_at:
            return None
        before, peer = self.peer, self._owner.selection.pick(self._reactor.second)
        if before is not None and peer is not None:
            before.stats.retry("dial")
        return peer

    def _is_to_be_left(self, peer: Peer) -> bool:
        """A verdict came while the connection was made, and nothing has been sent: is another one to be asked?

        Nobody has had it leave, since it did not stand yet, and the kernel of a stopped process answers. The dead are
        not used even if there is nobody else. Who is only not ready is better than a refusal.
        """
        if peer.lost:
            return True
        reactor = self._reactor
        return (
            self._was_usable and reactor.timers.now < self._give_up_at and self._owner.selection.another(reactor.second)
        )

    def _failed(self, termination: Termination, reason: str) -> None:
        self.deadline = NEVER
        if self._sock is not None:
            self._reactor.close(self._sock)
            self._sock = None
        if self.peer is not None:
            self._blame(self.peer, termination, reason)
        self.start()

    def _blame(self, peer: Peer, termination: Termination, reason: str) -> None:
        self._last = termination
        peer.stats.failed += 1
        self._owner.selection.fail(peer, self._reactor.second)
        self._dialer.report(peer, reason)

    def _own_fault(self, peer: Peer) -> None:
        self._owner.selection.release(peer)
        self.peer = None
        self._owner.on_dial_failed(Termination.LIMIT)


def _result(code: int | None) -> str:
    return _RESULTS.get(code or 0, "error")

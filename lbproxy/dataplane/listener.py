"""Accepting: what all connections of one listener share, and the burst of accept() calls that makes them."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from lbproxy.core.admission import Admission
from lbproxy.core.board import ABSENT, Board
from lbproxy.core.config import Config, Mode
from lbproxy.core.config import Listener as ListenerConfig
from lbproxy.core.leases import Leases
from lbproxy.core.messages import ListenerStats
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool
from lbproxy.core.termination import Termination
from lbproxy.dataplane.access_log import AccessLog
from lbproxy.dataplane.dial import Dialer, Report
from lbproxy.dataplane.heads import Heads
from lbproxy.dataplane.reactor import IN, Reactor
from lbproxy.dataplane.sockets import accept, reset_on_close, set_options
from lbproxy.dataplane.timers import NEVER, UNFILED

BURST = 64  # accepts per event; the rest raise the level-triggered event again
SLACK = 8  # connections, and a quarter: what a worker may have more than another
LEFT_OVER = 16  # accepts at once of what another worker should have taken and has not
MANY, LATELY = 4, 0.005  # if so many have ended since the last accepts, so many seconds ago, connections are short
STAND_BACK = 0.001  # seconds; shorter than the reactor's SHORT, so that a wait without events is long enough
PAUSE = 0.5  # seconds without accepting after running out of file descriptors, as nginx
NORMAL = Termination.NORMAL
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger(__name__)


class Connection(Protocol):
    """A client connection, as a listener sees it."""

    def on_reconfigured(self) -> None:
        """The listener has taken on another configuration."""

    @property
    def began(self) -> float:
        """When what is under way began, by the reactor's clock."""

    @property
    def bytes_moved(self) -> int:
        """Both ways, since then: if that does not change, it is quiet."""

    @property
    def client_ip(self) -> str:
        """Where it comes from; "" from a unix socket."""

    @property
    def client_address(self) -> str:
        """Its address and port."""

    @property
    def source(self) -> str:
        """Where the backend sees it come from, while it is connected to one."""

    @property
    def backend_peer(self) -> Peer | None:
        """Where it is connected to, if something is under way."""

    @property
    def stream_kind(self) -> str:
        """watch, log, exec, ... if it is a long stream (http mode), else ""."""

    @property
    def can_leave(self) -> bool:
        """Is it a watch, which may be able to leave its backend without an error?"""

    def drain(self) -> None:
        """Take nothing new: end now if idle, else when what is under way is done."""

    def close(self, termination: Termination) -> None:
        """End now."""

    def depends_on(self, peer: Peer) -> bool:
        """Is something under way at that backend?"""

    def on_backend_dead(self, peer: Peer) -> None:
        """End it, or go on elsewhere, if it still depends on that backend."""

    def put_out(self, peer: Peer) -> None:
        """As on_backend_dead(), of one that is not ready, and at which it has had its time."""

    def leave(self, peer: Peer, quiet: float) -> bool:
        """Go on elsewhere, or end without an error; False if it cannot now.

        `quiet` is for how many seconds no byte has moved.
        """

    def finish(self, quiet: float) -> bool:
        """End a watch as at the server's own timeout; False if that cannot be now. `quiet`: seconds without a byte."""

    def move_to(self, peer: Peer) -> bool:
        """Go on at another backend, or end so that the client connects again; False if it cannot now."""


class Listener:
    """One configured listener in one worker. `make(listener, sock, ip, port)` starts a connection."""

    __slots__ = (
        "_board",
        "_column",
        "_ended",
        "_make",
        "_paused",
        "_resume_at",
        "_shared_at",
        "_sockets",
        "_takes_left_over",
        "accept_paused",
        "access",
        "admission",
        "answered",
        "classes",
        "config",
        "connections",
        "deadline",
        "dialer",
        "draining",
        "ended_normally",
        "failed_requests",
        "filed",
        "full_config",
        "heads",
        "key",
        "label",
        "leases",
        "max_connections",
        "no_backend",
        "on_between_requests",
        "pool",
        "reactor",
        "repeatable",
        "report",
        "stats",
        "timeouts",
        "timers",
    )

    def __init__(
        self,
        config: ListenerConfig,
        full_config: Config,
        pool: Pool,
        reactor: Reactor,
        access: AccessLog | None,
        report: Report,
        max_connections: int,
        board: Board | None,
        column: int,
        make: Callable[[Listener, socket.SocketType, str, int], Connection],
    ) -> None:
        self.pool = pool
        self.reactor = reactor
        self.timers = reactor.timers
        self.leases = Leases()
        self.admission: Admission | None = None  # after an outage, for a while
        self.report = report
        self._resume_at = 0.0
        self._ended, self._shared_at = 0, 0.0  # connections, at the last look at the share, and when that was
        self._takes_left_over = False  # it stood back, and nobody else has taken what there was
        self.stats = ListenerStats()
        self.connections: set[Connection] = set()
        self.draining = False
        self.accept_paused = 0
        self.classes = [0] * 6  # responses by status // 100
        self.ended_normally = 0
        self.answered = 0  # requests that ended normally
        self.failed_requests = 0  # all others
        self.no_backend = 0  # picks that found nobody
        self.deadline = NEVER
        self.filed = UNFILED
        self.label = f'"listener":"{config.name}","pool":"{pool.name}"'
        self.on_between_requests: Callable[[Connection], None] | None = None  # while connections move elsewhere
        self._make = make
        self._sockets: dict[str, socket.socket] = {}  # by address
        self._paused = False
        self.configure(config, full_config, access, max_connections, board, column)

    def configure(
        self,
        config: ListenerConfig,
        full_config: Config,
        access: AccessLog | None,
        max_connections: int,
        board: Board | None,
        column: int,
    ) -> None:
        """Take on what lb.yaml says. Name, mode and pool stay: with others it would be another listener."""
        pool = self.pool
        self.config = config
        self.full_config = full_config
        self.access = access
        self.timeouts = config.timeouts
        self.max_connections = max_connections
        self._board = board  # None: there is no other worker
        self._column = column
        retry = pool.config.retry
        self.dialer = Dialer(self.reactor, full_config.tcp.backend, config.timeouts, retry.deadline, self.report)
        self.repeatable = frozenset(retry.methods)
        self.key = pool.config.balance.key  # remote_addr, uri, host, header:NAME or ""
        # Where other workers look at each count, requests take the long way, which tells them.
        plain = frozenset() if pool.board is not None else self.repeatable
        self.heads = Heads(full_config.http, self.key, plain)

    def open(self, fds: Mapping[str, int]) -> None:
        """Start accepting on the listening sockets for these addresses."""
        for address, fd in fds.items():
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self._sockets[address] = sock
            if not self._paused:
                self._watch(sock)
        for sock in self._sockets.values():
            set_options(sock, self.full_config.tcp.client)  # what is accepted inherits them
        self._tell()

    def close(self, addresses: Iterable[str]) -> None:
        """Accept no more on these."""
        for address in addresses:
            sock = self._sockets.pop(address)
            self.reactor.pause(sock.fileno())  # closing does not take it out of epoll while others have it open
            self.reactor.close(sock)
        self._tell()
        self.reactor.settle()

    @property
    def addresses(self) -> list[str]:
        """What it listens on."""
        return list(self._sockets)

    def stop(self) -> None:
        """Take whoever the kernel has accepted already, then no more, and let go of the listening sockets."""
        for sock in self._sockets.values():
            self._take(sock, self.config.backlog)
        self.draining = True
        self.close(self.addresses)

    def leave_board(self) -> None:
        """Count by itself: its column is another listener's now."""
        self._board = None

    def enter(self, connection: Connection) -> None:
        """One more."""
        self.connections.add(connection)
        if self._board is not None:
            self._tell()

    def leave(self, connection: Any) -> None:
        """One less."""
        self.connections.discard(connection)
        if self._board is not None:
            self._tell()

    def recover(self) -> None:
        """The pool has a backend to go to again: let watches and lists in at a bounded rate for a while (http mode)."""
        http, now = self.full_config.http, self.timers.now
        if not http.recovery_rate or self.config.mode is not Mode.HTTP:
            return
        rate = http.recovery_rate / self.full_config.workers
        if self.admission is None or self.admission.is_over(now):
            self.admission = Admission(rate, http.recovery_time, now)
        else:
            self.admission.renew(rate, http.recovery_time, now)

    def admits(self) -> bool:
        """Whether one more watch or list may be sent now."""
        admission, now = self.admission, self.timers.now
        if admission is None or admission.is_over(now):
            self.admission = None
            return True
        return admission.admit(now)

    def count_end(self, termination: Termination) -> None:
        """One more connection or request ended like this."""
        if termination is NORMAL:  # by far the most frequent, and an Enum's value costs a tenth of a microsecond
            self.ended_normally += 1
            return
        ends = self.stats.terminations
        ends[termination.value] = ends.get(termination.value, 0) + 1

    def snapshot(self) -> ListenerStats:
        """The counters, complete."""
        stats = self.stats
        stats.active = len(self.connections)
        stats.requests = self.failed_requests + self.answered
        stats.terminations[NORMAL.value] = self.ended_normally + self.answered
        stats.responses = {number: count for number, count in enumerate(self.classes) if count}
        return stats

    def on_timeout(self) -> None:
        """The pause is over."""
        self._paused = False
        self._tell()
        for sock in self._sockets.values():
            self._watch(sock)

    def _watch(self, sock: socket.socket) -> None:
        # Level-triggered: nobody forgets a connection. Not EPOLLEXCLUSIVE: who is woken alone may stand back.
        if sock.fileno() not in self.reactor.handlers:
            self.reactor.add(sock.fileno(), lambda _events: self._accept(sock), IN)

    def _accept(self, listening: socket.socket) -> None:
        most = BURST if self._board is None else self._share()
        if not most:
            self._stand_back()
            return
        # All that are there, although the last accept of an event finds nobody and costs 2 µs: one per event, or as
        # many as lately have been there, made batches smaller, and a connection 2 µs dearer.
        self._take(listening, most)

    def _take(self, listening: socket.socket, most: int) -> None:
        """Accept so many connections, if there are."""
        stats = self.stats
        for _ in range(most):
            try:
                sock, address = accept(listening)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # ECONNABORTED and network errors of the connection itself: accept(2)
            # The first condition is in _is_full(), too: without another worker's connections it is all there is to ask.
            if len(self.connections) >= self.max_connections or (self._board is not None and self._is_full()):
                stats.refused += 1
                self.count_end(Termination.LIMIT)
                reset_on_close(sock)
                sock.close()
                continue
            stats.accepted += 1
            ip, port = (address[0], address[1]) if address else ("", 0)
            self._make(self, sock, ip, port)  # it adds itself to `connections`, and may be over by now

    def _is_full(self) -> bool:
        elsewhere = 0
        if self._board is not None and self.config.max_connections:  # else the limit is this process's descriptors
            elsewhere = self._board.elsewhere(self._column)
        return len(self.connections) + elsewhere >= self.max_connections

    def _tell(self) -> None:
        """Let the other workers know how many connections this one has, and whether it takes more."""
        if self._board is not None:
            count = len(self.connections)
            accepting = self._sockets and not self._paused
            self._board.put(self._column, count if accepting else ~count)

    def _share(self) -> int:
        """How many connections to take before this worker has clearly more of them than another one.

        The kernel wakes every worker that waits, and who comes first is often the same one: long connections would
        pile up on it, and of a few dozen that come at once it would have all. (nginx lives with that, or with
        accept_mutex.)
        """
        left_over, self._takes_left_over = self._takes_left_over, False
        # Short ones do not pile up, and many small bites with a pause after each would halve their rate.
        now, ended = self.timers.now, self.stats.accepted - len(self.connections)
        short = ended - self._ended >= MANY and now - self._shared_at < LATELY
        self._ended, self._shared_at = ended, now
        if left_over:
            return BURST if short else LEFT_OVER
        least = self._board.least(self._column) if self._board is not None else ABSENT
        if least < 0:
            return BURST
        room = max(least + least // 4 + SLACK + 1 - len(self.connections), 0)
        return BURST if short and room else min(room, BURST)

    def _stand_back(self) -> None:
        """Leave what is in the queue to others for a moment; then take some of what is left: they may be stuck."""
        self._resume_at = self.timers.now + STAND_BACK
        for sock in self._sockets.values():
            self.reactor.pause(sock.fileno())
        self.reactor.after_next_wait(self._resume)

    def _resume(self) -> None:
        if self.timers.now < self._resume_at:
            self.reactor.after_next_wait(self._resume)
        elif not self._paused:
            self._takes_left_over = True
            for sock in self._sockets.values():
                self._watch(sock)

    def _pause(self, error: OSError) -> None:
        self.accept_paused += 1
        if not self._paused:
            self._paused = True
            self._tell()
            log.warning("%s: accepting pauses for %g s: %s", self.config.name, PAUSE, error.strerror)
            for sock in self._sockets.values():
                self.reactor.pause(sock.fileno())
            self.timers.arm(self, PAUSE)

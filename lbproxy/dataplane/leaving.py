"""What becomes of the connections to a backend that checks have found to be dead, or not to be ready.

*Dead.* A master that loses power or its network says nothing: its connections look idle until TCP gives up, a client-go
behind HTTP/2 pings for 45 s first, and a watch just stops. So they are ended here, by RST, and the clients connect
again; watches go on elsewhere without their clients' knowledge. Spread over a moment: thousands of clients that come
back in the same millisecond are the next outage.

*Not ready.* It is shutting down, or has lost etcd, and what it still serves is served. Watches leave it as soon as they
can without an error: they go on elsewhere, or end as at the server's own timeout. Everything else has drain_timeout.

Nothing is ended when no other backend is known to be well: then it may be the checks that are wrong. A backend that a
reload has removed, or that the operator drains, is left as one that is not ready, others or not; one that the operator
takes away (`maint`) is left as a dead one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lbproxy.core.config import BackendState, OnDead
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool
from lbproxy.core.termination import Termination
from lbproxy.dataplane.listener import Connection, Listener
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.timers import NEVER, UNFILED

PACE = 200  # watches a second that leave a backend which is not ready
AGAIN = 1.0  # seconds until a watch that cannot leave now is asked again
Uniform = Callable[[float, float], float]


class Cut:
    """One connection's turn to be ended."""

    __slots__ = ("_connection", "_peer", "deadline", "filed")

    def __init__(self, connection: Connection, peer: Peer) -> None:
        self._connection = connection
        self._peer = peer
        self.deadline = NEVER
        self.filed = UNFILED

    def on_timeout(self) -> None:
        if self._peer.health is Health.DOWN or self._peer.state is BackendState.MAINT:  # still
            self._connection.on_backend_dead(self._peer)


class Departure:
    """One connection's turns to leave a backend that is not ready, until `end`, when it has to."""

    __slots__ = ("_connection", "_end", "_moved", "_peer", "_pool", "_reactor", "_since", "deadline", "filed")

    def __init__(self, pool: Pool, peer: Peer, connection: Connection, reactor: Reactor, end: float) -> None:
        self._pool = pool
        self._peer = peer
        self._connection = connection
        self._reactor = reactor
        self._end = end
        self._moved = connection.bytes_moved
        self._since = reactor.timers.now
        self.deadline = NEVER
        self.filed = UNFILED

    def on_timeout(self) -> None:
        connection, timers = self._connection, self._reactor.timers
        if self._peer.usable or not connection.depends_on(self._peer):
            return
        if self._peer.state is BackendState.READY and not _others(self._pool, self._peer):
            timers.arm(self, AGAIN)
            return
        if connection.bytes_moved != self._moved:
            self._moved, self._since = connection.bytes_moved, timers.now
        if connection.can_leave and connection.leave(self._peer, timers.now - self._since):
            return
        if timers.now >= self._end:
            connection.close(Termination.BACKEND_DRAINED)
        elif connection.can_leave:
            timers.arm(self, min(AGAIN, self._end - timers.now))
        elif self._end != NEVER:
            timers.arm(self, self._end - timers.now)


class Farewell:
    """A watch's turns to be ended while the worker drains."""

    __slots__ = ("_connection", "_moved", "_reactor", "_since", "deadline", "filed")

    def __init__(self, connection: Connection, reactor: Reactor) -> None:
        self._connection = connection
        self._reactor = reactor
        self._moved = connection.bytes_moved
        self._since = reactor.timers.now
        self.deadline = NEVER
        self.filed = UNFILED

    def on_timeout(self) -> None:
        connection, timers = self._connection, self._reactor.timers
        if connection.bytes_moved != self._moved:
            self._moved, self._since = connection.bytes_moved, timers.now
        if connection.can_leave and not connection.finish(timers.now - self._since):
            timers.arm(self, AGAIN)


class TakingLeave:
    """Ends all watches as at the server's own timeout, spread over `spread` seconds: their clients watch elsewhere."""

    def __init__(self, reactor: Reactor, spread: float, uniform: Uniform) -> None:
        self._reactor = reactor
        self._end = reactor.timers.now + spread
        self._uniform = uniform
        self._told: set[Connection] = set()

    def look(self, listeners: Iterable[Listener]) -> None:
        """Give those a turn that are watches and have none yet: one may have been asked for and not answered."""
        timers = self._reactor.timers
        for listener in listeners:
            for connection in listener.connections:
                if connection.can_leave and connection not in self._told:
                    self._told.add(connection)
                    timers.arm(Farewell(connection, self._reactor), self._uniform(0.0, max(self._end - timers.now, 0)))


def cut_off(pool: Pool, peer: Peer, listeners: Iterable[Listener], reactor: Reactor, uniform: Uniform) -> int:
    """End what depends on a dead backend, within the pool's close_spread; how much that is."""
    if peer.state is not BackendState.MAINT and (pool.config.on_dead is OnDead.KEEP or not _others(pool, peer)):
        return 0
    for idle in list(peer.idle):
        idle.discard()
    victims = list(_dependants(pool, peer, listeners))
    for connection in victims:
        reactor.timers.arm(Cut(connection, peer), uniform(0.0, pool.config.close_spread))
    return len(victims)


def empty(pool: Pool, peer: Peer, listeners: Iterable[Listener], reactor: Reactor, uniform: Uniform) -> int:
    """Have everything leave a backend that is not ready, drained or removed; how much that is."""
    if peer.state is BackendState.READY and not _others(pool, peer):
        return 0
    timeout = pool.config.drain_timeout
    end = reactor.timers.now + timeout if timeout else NEVER
    leaving = list(_dependants(pool, peer, listeners))
    movable = sum(connection.can_leave for connection in leaving)
    spread = max(pool.config.close_spread, movable / PACE)
    for connection in leaving:
        departure = Departure(pool, peer, connection, reactor, end)
        if connection.can_leave:
            reactor.timers.arm(departure, uniform(0.0, min(spread, timeout / 2) if timeout else spread))
        elif timeout:
            reactor.timers.arm(departure, timeout + uniform(0.0, pool.config.close_spread))
    return len(leaving)


def _others(pool: Pool, peer: Peer) -> bool:
    return any(other.usable for other in pool.peers if other is not peer)


def _dependants(pool: Pool, peer: Peer, listeners: Iterable[Listener]) -> Iterator[Connection]:
    for listener in listeners:
        if listener.pool is pool:
            yield from (connection for connection in listener.connections if connection.depends_on(peer))

"""What becomes of the connections to a backend that checks have found to be dead, or not to be ready.

*Dead.* A master that loses power or its network says nothing: its connections look idle until TCP gives up, a client-go
behind HTTP/2 pings for 45 s first, and a watch just stops. So they are ended here, by RST, and the clients connect
again; watches go on elsewhere without their clients' knowledge. Spread over a moment: thousands of clients that come
back in the same millisecond are the next outage.

*Not ready.* It is shutting down, or has lost etcd, and what it still serves is served. Watches leave it as soon as they
can without an error: they go on elsewhere, or end as at the server's own timeout. Everything else has drain_timeout.

*Nobody well.* Then it may be the checks that are wrong, or what all backends share (etcd) is gone, and nothing is ended
for want of a place to go: only the dead are left, if somebody alive gets the traffic. Nor is the first backend that
comes back taken for the only one: the others need a few checks more than it, and to end all that they serve in this
second would be an outage of our own making. So there is a grace, and then those that are still dead or not ready are
left, each with all of its drain_timeout: what kept to them, and what came while nobody was well.

A backend that a reload has removed, or that the operator drains, is left as one that is not ready, others or not; one
that the operator takes away (`maint`) is left as a dead one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum

from lbproxy.core.config import BackendState, OnDead
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool
from lbproxy.core.watch.stream import QUIET
from lbproxy.dataplane.listener import Connection, Listener
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.timers import NEVER, UNFILED

PACE = 200  # watches a second that leave a backend which is not ready, in all workers: kube-apiserver's pace, too
AGAIN = 1.0  # seconds until a watch that cannot leave now is asked again
LAST_CHANCE = QUIET + AGAIN  # seconds before drain_timeout by which every watch has had a turn: some have to be quiet
GRACES = 2  # times the least time in which a backend is believed to be well again
Uniform = Callable[[float, float], float]


class Refuge(IntEnum):
    """The best that a pool has for connections that leave a backend."""

    NONE = 0
    ALIVE = 1  # not ready, and given the traffic all the same: better than a dead one
    WELL = 2


class Exodus:
    """All that leaves one backend which is not ready. Once `over`, nobody goes on its account.

    Who comes later has no turn in it: a connection that was being made, and is kept for want of another backend, or a
    request that nobody else would take. When everybody else has had to go, the next exodus begins, of those.
    """

    __slots__ = ("_begin_next", "deadline", "end", "filed", "over", "peer", "timers")

    def __init__(self, peer: Peer, reactor: Reactor, end: float, begin_next: Callable[[], object]) -> None:
        self.peer = peer
        self.timers = reactor.timers
        self.end = end  # who is still there then is closed
        self.over = False
        self.deadline = NEVER
        self.filed = UNFILED
        self._begin_next = begin_next

    def on_timeout(self) -> None:
        if not self.over:
            self._begin_next()


class Cut:
    """One connection's turn to be ended."""

    __slots__ = ("_connection", "_peer", "_pool", "deadline", "filed")

    def __init__(self, pool: Pool, peer: Peer, connection: Connection) -> None:
        self._pool = pool
        self._peer = peer
        self._connection = connection
        self.deadline = NEVER
        self.filed = UNFILED

    def on_timeout(self) -> None:
        if _is_to_be_cut(self._pool, self._peer):  # still
            self._connection.on_backend_dead(self._peer)


class Departure:
    """One connection's turns to leave a backend that is not ready, until the exodus ends, when it has to."""

    __slots__ = ("_connection", "_exodus", "_moved", "_since", "deadline", "filed")

    def __init__(self, exodus: Exodus, connection: Connection) -> None:
        self._exodus = exodus
        self._connection = connection
        self._moved = connection.bytes_moved
        self._since = exodus.timers.now
        self.deadline = NEVER
        self.filed = UNFILED

    def on_timeout(self) -> None:
        exodus, connection = self._exodus, self._connection
        timers, peer = exodus.timers, exodus.peer
        if exodus.over or peer.usable or not connection.depends_on(peer):
            return
        if connection.bytes_moved != self._moved:
            self._moved, self._since = connection.bytes_moved, timers.now
        if connection.can_leave and connection.leave(peer, timers.now - self._since):
            return
        if timers.now >= exodus.end:
            connection.put_out(peer)
        elif connection.can_leave:
            timers.arm(self, min(AGAIN, exodus.end - timers.now))
        elif exodus.end != NEVER:
            timers.arm(self, exodus.end - timers.now)


class Return:
    """A pool that had nobody well has somebody again: after a grace, what had to stay with the others leaves them."""

    __slots__ = ("_leaving", "_pool", "deadline", "filed")

    def __init__(self, leaving: Leaving, pool: Pool) -> None:
        self._leaving = leaving
        self._pool = pool
        self.deadline = NEVER
        self.filed = UNFILED

    def on_timeout(self) -> None:
        self._leaving.part_from_all(self._pool)


class Leaving:
    """One worker's: has connections leave backends. `listeners` are all that there are, at any time."""

    def __init__(self, reactor: Reactor, listeners: Callable[[], Iterable[Listener]], uniform: Uniform) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self._uniform = uniform
        self._exodus: dict[Peer, Exodus] = {}
        self._refuges: dict[Pool, Refuge] = {}
        self._returns: dict[Pool, Return] = {}

    def look(self, pools: Iterable[Pool]) -> None:
        """Something about these backends may have changed: is there anybody to go to?"""
        for pool in pools:
            now = _refuge(pool)
            before = self._refuges.get(pool, now)
            self._refuges[pool] = now
            if now > before:
                returned = self._returns.setdefault(pool, Return(self, pool))
                self._reactor.timers.arm(returned, _grace(pool))
            elif before is Refuge.WELL and now is not before:
                for peer in pool.peers:
                    if peer.state is BackendState.READY:
                        self._stop(peer)

    def forget(self, pools: Iterable[Pool]) -> None:
        """Remember nothing but what concerns these pools: there are no others any more."""
        kept = set(pools)
        self._refuges = {pool: refuge for pool, refuge in self._refuges.items() if pool in kept}
        self._returns = {pool: one for pool, one in self._returns.items() if pool in kept}
        self._exodus = {peer: one for peer, one in self._exodus.items() if peer.conns and not one.over}

    def part_from(self, pool: Pool, peer: Peer) -> None:
        """Have its connections leave a backend in the way that its state asks for."""
        if peer.lost:
            self.cut_off(pool, peer)
        elif not peer.usable:
            self.empty(pool, peer)
        else:
            self._stop(peer)

    def part_from_all(self, pool: Pool) -> None:
        """Leave those that are dead or not ready, and that are not being left already.

        Whoever the operator drains or takes away does not wait for others, and has been left when he said so.
        """
        for peer in pool.peers:
            if peer.state is BackendState.READY and not peer.usable and peer not in self._exodus:
                self.part_from(pool, peer)

    def cut_off(self, pool: Pool, peer: Peer) -> int:
        """End what depends on a dead backend, within the pool's close_spread; how much that is."""
        if not _is_to_be_cut(pool, peer):
            return 0
        for idle in list(peer.idle):
            idle.discard()
        victims = list(self._dependants(pool, peer))
        for connection in victims:
            self._reactor.timers.arm(Cut(pool, peer, connection), self._uniform(0.0, pool.config.close_spread))
        return len(victims)

    def empty(self, pool: Pool, peer: Peer) -> int:
        """Have everything leave a backend that is not ready, drained or removed; how much that is."""
        self._stop(peer)
        if peer.state is BackendState.READY and not _others(pool, peer):
            return 0
        timeout, timers = pool.config.drain_timeout, self._reactor.timers
        end = timers.now + timeout if timeout else NEVER
        self._exodus[peer] = exodus = Exodus(peer, self._reactor, end, lambda: self._empty_again(pool, peer))
        if timeout:
            timers.arm(exodus, timeout + pool.config.close_spread + AGAIN)
        leaving = list(self._dependants(pool, peer))
        spread = self._spread(pool, leaving)
        for connection in leaving:
            departure = Departure(exodus, connection)
            if connection.can_leave:
                timers.arm(departure, self._uniform(0.0, spread))
            elif timeout:
                timers.arm(departure, timeout + self._uniform(0.0, pool.config.close_spread))
        return len(leaving)

    def _empty_again(self, pool: Pool, peer: Peer) -> None:
        if any(True for _ in self._dependants(pool, peer)):
            self.empty(pool, peer)
        else:
            self._stop(peer)

    def _spread(self, pool: Pool, leaving: list[Connection]) -> float:
        """Seconds in which all watches get their first turn to leave.

        At PACE, which spares those that they go to. But drain_timeout is a promise to an operator who waits for it, and
        a watch that leaves too fast is better off than one that is cut: so with too many of them, as fast as it takes.
        kube-apiserver's own is of this form, too: 200 a second, or as many as its grace period demands.
        """
        watches = sum(connection.can_leave for connection in leaving)
        workers = max((one.full_config.workers for one in self._listeners()), default=1)
        spread = max(pool.config.close_spread, watches * workers / PACE)
        timeout = pool.config.drain_timeout
        return min(spread, max(timeout - LAST_CHANCE, timeout / 2)) if timeout else spread

    def _stop(self, peer: Peer) -> None:
        if exodus := self._exodus.pop(peer, None):
            exodus.over = True
            exodus.deadline = NEVER

    def _dependants(self, pool: Pool, peer: Peer) -> Iterator[Connection]:
        for listener in self._listeners():
            if listener.pool is pool:
                yield from (connection for connection in listener.connections if connection.depends_on(peer))


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


def _is_to_be_cut(pool: Pool, peer: Peer) -> bool:
    """Is it dead or taken away, and is there somebody to go to, or does the operator not ask?"""
    if peer.state is BackendState.MAINT:
        return True
    return peer.health is Health.DOWN and pool.config.on_dead is OnDead.CLOSE and _refuge(pool) is not Refuge.NONE


def _refuge(pool: Pool) -> Refuge:
    in_use = pool.in_use
    if not in_use:
        return Refuge.NONE
    return Refuge.WELL if in_use[0].usable else Refuge.ALIVE


def _grace(pool: Pool) -> float:
    """Seconds for which the first backend to come back is not believed to be the only one."""
    check = pool.config.health_check
    return GRACES * check.rise * min(check.fast_interval, check.interval)


def _others(pool: Pool, peer: Peer) -> bool:
    return any(other.usable for other in pool.peers if other is not peer)

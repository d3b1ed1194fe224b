"""Moving long streams to backends that have too few of them; see core/rebalancing.py for how many.

A watch in http mode goes on at the other backend, and its client sees nothing. A tcp connection can only be closed, and
its client connects again: so that is done only where the operator has asked for it, slowly, and never twice in a short
time to the same client. Quiet ones go first, and of these the oldest: least is under way in them.
"""

from __future__ import annotations

from collections.abc import Iterable

from lbproxy.core.config import Mode, Rebalance
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool
from lbproxy.core.rebalancing import Rebalancing
from lbproxy.dataplane.listener import Connection, Listener
from lbproxy.dataplane.reactor import Reactor

INTERVAL = 1.0  # seconds between two looks
# Seconds for which what was moved stays where it is. Of a watch only masters see it, and all of a rolling restart must
# be evened out within two minutes; a tcp client has to connect again.
REST = {Mode.HTTP: 60.0, Mode.TCP: 300.0}
QUIET = 5.0  # seconds without a byte before a tcp connection may be closed
TCP_SHARE = 0.01 / 60  # of all tcp connections that may be closed in a second, and never more than one


class Balance:
    """One pool's streams in one mode."""

    def __init__(self, pool: Pool, listeners: Iterable[Listener], mode: Mode, reactor: Reactor) -> None:
        self.pool = pool
        self.mode = mode
        self._reactor = reactor
        self.configure(listeners)
        self._plan = Rebalancing()
        self._seen: dict[Connection, tuple[int, float]] = {}  # bytes moved, and since when that has not changed
        self._moved: dict[Connection, float] = {}
        self._under_way: dict[Connection, Peer] = {}  # who has not arrived yet, and where
        self._clients: dict[str, float] = {}  # when a tcp client was last disturbed
        self._allowance = 0.0

    def configure(self, listeners: Iterable[Listener]) -> None:
        """Take on other listeners. What has been moved lately is still known: a reload moves nobody twice."""
        self._listeners = [one for one in listeners if one.pool is self.pool and one.config.mode is self.mode]

    @property
    def wanted(self) -> bool:
        asked = self.pool.config.rebalance
        return bool(self._listeners) and (asked is Rebalance.ON or (asked is Rebalance.AUTO and self.mode is Mode.HTTP))

    def look(self) -> None:
        """Move what is to be moved now."""
        peers, now = self.pool.peers, self._reactor.timers.now
        self.pool.start_slowly(self._reactor.second)  # where nothing but streams is, nobody else does it
        counts = [peer.stats.long_streams if self.mode is Mode.HTTP else peer.conns for peer in peers]
        self._under_way = {
            one: target
            for one, target in self._under_way.items()
            if self._is_open(one) and not any(one.depends_on(peer) for peer in peers)
        }
        for peer in self._under_way.values():
            if not peer.removed:
                counts[peer.index] += 1
        moves = self._plan.plan(counts, _worths(self.pool))
        if not self._plan.moving:
            self._seen.clear()
            return
        rest = REST[self.mode]
        self._moved = {one: when for one, when in self._moved.items() if now - when < rest and self._is_open(one)}
        self._clients = {ip: when for ip, when in self._clients.items() if now - when < rest}
        seen, self._seen = self._seen, {}
        candidates = {peers[source]: self._candidates(peers[source], seen, now) for source in {one for one, _ in moves}}
        if not seen:
            return  # who is quiet shows at the next look
        for source, target in moves[: self._allowed(sum(counts))]:
            while candidates[peers[source]]:
                connection = candidates[peers[source]].pop()
                if self.mode is Mode.TCP and connection.client_ip in self._clients:
                    continue
                if connection.move_to(peers[target]):
                    self._moved[connection] = now
                    self._under_way[connection] = peers[target]
                    self._clients[connection.client_ip] = now
                    self._allowance -= 1
                    break

    def _allowed(self, count: int) -> int:
        """How many may be moved now."""
        if self.mode is Mode.HTTP:
            return count
        self._allowance = min(self._allowance + min(TCP_SHARE * count, 1.0) * INTERVAL, 1.0)
        return int(self._allowance)

    def _is_open(self, connection: Connection) -> bool:
        return any(connection in listener.connections for listener in self._listeners)

    def _candidates(self, peer: Peer, seen: dict[Connection, tuple[int, float]], now: float) -> list[Connection]:
        """Who may leave a backend; the first to go stands last."""
        found: list[tuple[bool, float, Connection]] = []
        for listener in self._listeners:
            for connection in listener.connections:
                if not connection.depends_on(peer) or connection in self._moved:
                    continue
                moved, since = seen.get(connection, (-1, now))
                if moved != connection.bytes_moved:
                    since = now
                self._seen[connection] = connection.bytes_moved, since
                quiet = now - since >= (QUIET if self.mode is Mode.TCP else INTERVAL / 2)
                if connection.can_leave or (self.mode is Mode.TCP and quiet):
                    found.append((quiet, -connection.began, connection))
        found.sort(key=lambda one: one[:2])
        return [connection for _quiet, _began, connection in found]


def _worths(pool: Pool) -> list[float]:
    """The weight of each backend that should have streams: the usable ones of the tier in use."""
    in_use = [peer for peer in pool.peers if peer.usable and not peer.backup]
    if not in_use:
        in_use = [peer for peer in pool.peers if peer.usable]
    return [peer.worth if peer in in_use else 0.0 for peer in pool.peers]

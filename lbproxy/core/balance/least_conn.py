"""least_conn: the fewest connections for its weight; smooth round robin among equals. nginx's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbproxy.core.balance.round_robin import RoundRobin

if TYPE_CHECKING:
    from lbproxy.core.pool import Peer, Pool, Selection


class LeastConn:
    """Two passes, as nginx makes them: the least, then who of several least gains most round-robin weight."""

    def __init__(self, pool: Pool) -> None:
        self._round_robin = RoundRobin(pool)

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        if tier.single:
            return self._round_robin.pick(selection, now)
        tried = selection.tried
        best: Peer | None = None
        start = 0
        many = False
        for index, peer in enumerate(tier.peers):
            if not peer.eligible(tried, now):
                continue
            if best is None or peer.conns * best.weight < best.conns * peer.weight:
                best, start, many = peer, index, False
            elif peer.conns * best.weight == best.conns * peer.weight:
                many = True
        if best is None:
            return None
        total = 0
        if many:
            for peer in tier.peers[start:]:
                if not peer.eligible(tried, now) or peer.conns * best.weight != best.conns * peer.weight:
                    continue
                peer.current_weight += peer.effective_weight
                total += peer.effective_weight
                if peer.effective_weight < peer.weight:
                    peer.effective_weight += 1
                if peer.current_weight > best.current_weight:
                    best = peer
        best.current_weight -= total
        return best

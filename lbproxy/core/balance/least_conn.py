"""least_conn: the fewest connections for its weight; smooth round robin among equals. nginx's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbproxy.core.balance.round_robin import RoundRobin

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection


class LeastConn:
    """Two passes, as nginx makes them: the least, then who of several least gains most round-robin weight.

    Where nginx has the weight stands `worth`: the same but while a backend starts slowly.
    """

    def __init__(self, pool: Pool) -> None:
        self._round_robin = RoundRobin(pool)

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        if tier.single:
            return self._round_robin.pick(selection, now)
        tried = selection.tried
        best: Peer | None = None
        start = least = 0
        many = False
        for index, peer in enumerate(tier.peers):
            if not peer.eligible(tried, now):
                continue
            load = peer.conns + peer.elsewhere
            if best is None or load * best.worth < least * peer.worth:
                best, start, least, many = peer, index, load, False
            elif load * best.worth == least * peer.worth:
                many = True
        if best is None:
            return None
        total = 0
        if many:
            worth = best.worth
            for peer in tier.peers[start:]:
                load = peer.conns + peer.elsewhere
                if not peer.eligible(tried, now) or load * worth != least * peer.worth:
                    continue
                peer.current_weight += peer.effective_weight
                total += peer.effective_weight
                if peer.effective_weight < peer.weight:
                    peer.effective_weight += 1
                if peer.current_weight > best.current_weight:
                    best = peer
        best.current_weight -= total
        return best

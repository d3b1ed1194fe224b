"""Smooth weighted round robin, nginx's default: 5,1,1 gives a a b a c a a."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbproxy.core.pool import Peer, Pool, Selection


class RoundRobin:
    """Every eligible peer gains its effective weight; the one that has most wins and pays what all gained."""

    def __init__(self, pool: Pool) -> None:
        del pool

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        tried = selection.tried
        if tier.single:
            # nginx ignores the failures of the only server there is
            peer = tier.peers[0]
            full = peer.max_connections and peer.conns >= peer.max_connections
            return None if tried or full or not peer.usable else peer
        best: Peer | None = None
        total = most = 0
        for peer in tier.peers:
            if tried & peer.bit or not peer.usable:
                continue
            if peer.fails and not peer.eligible(tried, now):
                continue
            if peer.max_connections and peer.conns >= peer.max_connections:
                continue
            weight = peer.effective_weight
            peer.current_weight = current = peer.current_weight + weight
            total += weight
            if weight < peer.weight:
                peer.effective_weight = weight + 1
            if best is None or current > most:
                best, most = peer, current
        if best is not None:
            best.current_weight -= total
        return best

"""Smooth weighted round robin, nginx's default: 5,1,1 gives a a b a c a a.

While nobody fails the sequence repeats itself, so it is looked up and not calculated: `look_ahead` makes a batch of
picks in advance, and `rewind` takes back those that have not been used when something changes. A step is undone
exactly: who was picked gets back what all had gained, and all give back their gain. So every decision is still nginx's,
at a tenth of the cost, and no matter how many backends there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection

BATCH = 64  # picks made in advance, about
MAX_BATCH = 1024  # of the sum of all weights, which is how long a sequence is before it repeats itself


class RoundRobin:
    """Every eligible peer gains its effective weight; the one that has most wins and pays what all gained."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._batch: list[Peer] = []  # the last batch, last pick first, if it ended where it began
        self._members: list[Peer] = []

    def look_ahead(self) -> bool:
        """Fill the pool's `ahead`; False if its next picks depend on more than weights."""
        pool = self._pool
        members = [peer for peer in pool.primary.peers if peer.usable]
        if members != self._members or not self._batch:
            self._batch, self._members = [], members
        total = sum(peer.weight for peer in members)
        if (
            pool.primary.single
            or pool.starting
            or not members
            or total > MAX_BATCH
            or any(peer.fails or peer.max_connections or peer.effective_weight != peer.weight for peer in members)
        ):
            return False
        if self._batch:
            pool.ahead.extend(self._batch)
            return True
        before = [peer.current_weight for peer in members]
        batch = [self._step(members, total) for _ in range(total)]
        batch.reverse()
        repeats = 1
        if before == [peer.current_weight for peer in members]:
            repeats = max(BATCH // total, 1)
            self._batch = batch * repeats
        pool.ahead.extend(batch * repeats)
        return True

    def rewind(self) -> None:
        """Take back the picks that were made in advance and not used."""
        ahead = self._pool.ahead
        total = sum(peer.weight for peer in self._members)
        for peer in self._members:
            peer.current_weight -= peer.weight * len(ahead)
        for peer in ahead:
            peer.current_weight += total
        ahead.clear()
        self._batch = []

    @staticmethod
    def _step(members: list[Peer], total: int) -> Peer:
        for peer in members:
            peer.current_weight += peer.weight
        best = max(members, key=lambda peer: peer.current_weight)  # the first of several, as in nginx
        best.current_weight -= total
        return best

    def pick(self, selection: Selection, now: int) -> Peer | None:
        self._batch = []  # it does not begin here any more
        tier = selection.tier
        tried = selection.tried
        if tier.single:
            # nginx ignores the failures of the only server there is
            peer = tier.peers[0]
            full = peer.max_connections and peer.conns + peer.elsewhere >= peer.max_connections
            return None if tried or full or not peer.usable else peer
        best: Peer | None = None
        total = most = 0
        for peer in tier.peers:
            if tried & peer.bit or not peer.usable:
                continue
            if peer.fails and not peer.eligible(tried, now):
                continue
            if peer.max_connections and peer.conns + peer.elsewhere >= peer.max_connections:
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

"""random and random_two: nginx's `random` and `random two least_conn`.

nginx draws from libc's random(), seeded by pid and time: what is reproduced is the distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbproxy.core.balance.round_robin import RoundRobin
from lbproxy.core.balance.slots import MAX_MISSES, slot_owner

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection


class Random:
    """Draw by weight until an eligible one comes."""

    def __init__(self, pool: Pool) -> None:
        self._round_robin = RoundRobin(pool)
        self._randrange = pool.randrange

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        if len(tier.peers) < 2:
            return self._round_robin.pick(selection, now)
        for _ in range(MAX_MISSES + 1):
            peer = slot_owner(tier, self._randrange(tier.weight))
            if peer.eligible(selection.tried, now):
                return peer
        return self._round_robin.pick(selection, now)


class RandomTwo:
    """Draw two different ones; the less connected for its weight wins, the second when they are equal."""

    def __init__(self, pool: Pool) -> None:
        self._round_robin = RoundRobin(pool)
        self._randrange = pool.randrange

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        if len(tier.peers) < 2:
            return self._round_robin.pick(selection, now)
        first: Peer | None = None
        for _ in range(MAX_MISSES + 1):
            peer = slot_owner(tier, self._randrange(tier.weight))
            if peer is first or not peer.eligible(selection.tried, now):
                continue
            if first is None:
                first = peer
                continue
            more = (peer.conns + peer.elsewhere) * first.worth > (first.conns + first.elsewhere) * peer.worth
            return first if more else peer
        return self._round_robin.pick(selection, now)

"""hash KEY: nginx's, compatible with Perl's Cache::Memcached."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from lbproxy.core.balance.round_robin import RoundRobin
from lbproxy.core.balance.slots import MAX_MISSES, slot_owner

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection


class HashKey:
    """The sum of the hashes of key, 1key, 2key, … names a slot; the next term is added while it is not eligible."""

    def __init__(self, pool: Pool) -> None:
        self._round_robin = RoundRobin(pool)

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        if not selection.key or selection.misses > MAX_MISSES or len(tier.peers) < 2:
            return self._round_robin.pick(selection, now)
        while True:
            again = str(selection.rounds).encode() if selection.rounds else b""
            value = max(selection.hash, 0) + (crc32(again + selection.key) >> 16 & 0x7FFF)
            selection.hash = value & 0xFFFFFFFF
            selection.rounds += 1
            peer = slot_owner(tier, selection.hash % tier.weight)
            if peer.eligible(selection.tried, now):
                return peer
            selection.misses += 1
            if selection.misses > MAX_MISSES:
                return self._round_robin.pick(selection, now)

"""source_hash: the client's whole address decides, by rendezvous hashing.

Every backend has a score for every client, and the highest eligible one wins. So a backend that goes away moves only
its own clients, evenly to all others, and gets exactly them back; and neighbours in one /24 meet different backends.
(Thaler and Ravishankar, 1996; weights as in Schindelhauer and Schomaker, 2005.)
"""

from __future__ import annotations

from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer, Tier
    from lbproxy.core.pool import Pool, Selection

MAX_CLIENTS = 4096  # addresses whose order is remembered


def score(client: str, text: str, weight: int) -> float:
    """What a backend is worth to a client: larger is better, and each wins by its share of the weight."""
    digest = blake2b(f"{client}\0{text}".encode(), digest_size=7).digest()
    return weight / -log((int.from_bytes(digest, "big") + 1) / (2**56 + 1))


class SourceHash:
    """Remembers the order of the backends for the clients it has seen."""

    def __init__(self, pool: Pool) -> None:
        del pool
        self._orders: dict[tuple[str, bool], list[Peer]] = {}

    def pick(self, selection: Selection, now: int) -> Peer | None:
        for peer in self._order(selection.client, selection.tier):
            if peer.eligible(selection.tried, now):
                return peer
        return None

    def _order(self, client: str, tier: Tier) -> list[Peer]:
        client = client.removeprefix("::ffff:")
        key = (client, tier.peers[0].backup)
        order = self._orders.get(key)
        if order is None:
            if len(self._orders) >= MAX_CLIENTS:
                self._orders.clear()
            order = sorted(tier.peers, key=lambda peer: -score(client, peer.address.text, peer.weight))
            self._orders[key] = order
        return order

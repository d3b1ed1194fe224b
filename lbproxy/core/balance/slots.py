"""What nginx's hashes and its random share: each unit of weight is a slot, and a number names a slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer, Tier

MAX_MISSES = 20  # nginx draws or hashes 21 times before it falls back to round robin


def slot_owner(tier: Tier, slot: int) -> Peer:
    """The peer that owns slot number `slot`, 0 ≤ slot < tier.weight. One that is down keeps its slots."""
    for peer in tier.peers:
        slot -= peer.weight
        if slot < 0:
            return peer
    raise ValueError("the slot is beyond the tier's weight")

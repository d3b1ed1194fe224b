"""consistent_hash KEY: nginx's `hash KEY consistent`, a ketama ring of 160 points per unit of weight.

The ring is made of the addresses as they are written in the configuration, so 10.0.1.10:80 and 10.0.1.10 would be two
servers; a backend that goes away moves only the keys that it had.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING
from zlib import crc32

from lbproxy.core.balance.round_robin import RoundRobin
from lbproxy.core.balance.slots import MAX_MISSES

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection

POINTS = 160  # per unit of weight


def points_of(text: str, weight: int) -> list[int]:
    """The ring points of one server, from its text in the configuration."""
    text = text.removeprefix("unix:")
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit()):
        host, port = text, ""
    prefix = host.encode() + b"\0" + port.encode()
    points = []
    previous = 0
    for _ in range(POINTS * weight):
        previous = crc32(prefix + previous.to_bytes(4, "little"))
        points.append(previous)
    return points


class ConsistentHash:
    """The first point at or after the key's hash, and on from there while its server is not eligible."""

    def __init__(self, pool: Pool) -> None:
        self._round_robin = RoundRobin(pool)
        ring: dict[int, str] = {}
        for peer in pool.primary.peers:
            for point in points_of(peer.address.text, peer.weight):
                ring.setdefault(point, peer.address.text)
        self._points = sorted(ring)
        self._texts = [ring[point] for point in self._points]

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        if not selection.key or selection.misses > MAX_MISSES or tier.single:
            return self._round_robin.pick(selection, now)
        size = len(self._points)
        if selection.hash < 0:
            selection.hash = bisect_left(self._points, crc32(selection.key)) % size
        while True:
            peer = _among(tier.peers, self._texts[selection.hash % size], selection.tried, now)
            if peer is not None:
                return peer
            selection.hash += 1
            selection.misses += 1
            if selection.misses > MAX_MISSES:
                return self._round_robin.pick(selection, now)


def _among(peers: list[Peer], text: str, tried: int, now: int) -> Peer | None:
    """A step of smooth round robin among the eligible peers that stand under one text in the configuration."""
    best: Peer | None = None
    total = 0
    for peer in peers:
        if peer.address.text != text or not peer.eligible(tried, now):
            continue
        peer.current_weight += peer.effective_weight
        total += peer.effective_weight
        if peer.effective_weight < peer.weight:
            peer.effective_weight += 1
        if best is None or peer.current_weight > best.current_weight:
            best = peer
    if best is not None:
        best.current_weight -= total
    return best

"""ip_hash: the client's network decides. nginx's function: the first three octets of IPv4, all sixteen of IPv6.

All clients of one /24 meet one backend; source_hash is the algorithm that looks at the whole address.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from lbproxy.core.balance.round_robin import RoundRobin
from lbproxy.core.balance.slots import MAX_MISSES, slot_owner

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection

MAX_CLIENTS = 4096  # addresses whose key is remembered


def key_of(client: str) -> bytes:
    """The bytes that are hashed. A client without an address (unix socket) has three zero bytes, as in nginx."""
    if not client:
        return b"\0\0\0"
    address = ipaddress.ip_address(client)
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return address.packed if mapped is None else mapped.packed[:3]
    return address.packed[:3]


class IpHash:
    """Hash again, up to 21 times in one walk, while the backend that it names is not eligible."""

    def __init__(self, pool: Pool) -> None:
        self._round_robin = RoundRobin(pool)
        self._keys: dict[str, bytes] = {}

    def pick(self, selection: Selection, now: int) -> Peer | None:
        tier = selection.tier
        if selection.misses > MAX_MISSES or len(tier.peers) < 2:
            return self._round_robin.pick(selection, now)
        value = selection.hash if selection.hash >= 0 else 89
        key = self._key(selection.client)
        while True:
            for byte in key:
                value = (value * 113 + byte) % 6271
            peer = slot_owner(tier, value % tier.weight)
            if peer.eligible(selection.tried, now):
                selection.hash = value
                return peer
            selection.misses += 1
            if selection.misses > MAX_MISSES:
                return self._round_robin.pick(selection, now)

    def _key(self, client: str) -> bytes:
        key = self._keys.get(client)
        if key is None:
            if len(self._keys) >= MAX_CLIENTS:
                self._keys.clear()
            key = self._keys[client] = key_of(client)
        return key

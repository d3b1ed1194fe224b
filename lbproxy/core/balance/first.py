"""first: the first eligible backend in the order of the configuration, for those who want one hot apiserver."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection


class First:
    """HAProxy's `balance first`: the next one is used when those before it are full or not eligible."""

    def __init__(self, pool: Pool) -> None:
        del pool

    def pick(self, selection: Selection, now: int) -> Peer | None:
        for peer in selection.tier.peers:
            if peer.eligible(selection.tried, now):
                return peer
        return None

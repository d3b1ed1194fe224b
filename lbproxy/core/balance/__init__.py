"""The balancing algorithms: one file each, and one table of their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from lbproxy.core.balance.consistent_hash import ConsistentHash
from lbproxy.core.balance.first import First
from lbproxy.core.balance.hash_key import HashKey
from lbproxy.core.balance.ip_hash import IpHash
from lbproxy.core.balance.least_conn import LeastConn
from lbproxy.core.balance.random_draw import Random, RandomTwo
from lbproxy.core.balance.round_robin import RoundRobin
from lbproxy.core.balance.source_hash import SourceHash
from lbproxy.core.config import Algorithm

if TYPE_CHECKING:
    from lbproxy.core.peer import Peer
    from lbproxy.core.pool import Pool, Selection


class Picker(Protocol):
    """Chooses among the eligible peers of the selection's tier; counts nothing but its own weights."""

    def pick(self, selection: Selection, now: int) -> Peer | None:
        """An eligible peer, or None when the tier has none."""


PICKERS: dict[Algorithm, Callable[[Pool], Picker]] = {
    Algorithm.ROUND_ROBIN: RoundRobin,
    Algorithm.LEAST_CONN: LeastConn,
    Algorithm.IP_HASH: IpHash,
    Algorithm.SOURCE_HASH: SourceHash,
    Algorithm.RANDOM: Random,
    Algorithm.RANDOM_TWO: RandomTwo,
    Algorithm.FIRST: First,
    Algorithm.HASH: HashKey,
    Algorithm.CONSISTENT_HASH: ConsistentHash,
}

"""The balancing algorithms: one file each, and one table of their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from lbproxy.core.balance.round_robin import RoundRobin
from lbproxy.core.config import Algorithm

if TYPE_CHECKING:
    from lbproxy.core.pool import Peer, Pool, Selection


class Picker(Protocol):
    """Chooses among the eligible peers of the selection's tier; counts nothing but its own weights."""

    def pick(self, selection: Selection, now: int) -> Peer | None:
        """An eligible peer, or None when the tier has none."""


PICKERS: dict[Algorithm, Callable[[Pool], Picker]] = {
    Algorithm.ROUND_ROBIN: RoundRobin,
}

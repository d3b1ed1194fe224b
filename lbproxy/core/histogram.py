"""How long things take: durations counted by bounds, as Prometheus' histograms have them.

One set of bounds for everything that is waited for, from a loopback's connect to an answer that is given up: figures
of one kind can then be laid beside those of another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

# Seconds; a duration counts in the first one that is not below it. 1 s is among them: it is what alerts ask for.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BUCKETS = len(BOUNDS) + 1
SHORTEST = BOUNDS[0]  # most are not longer, and it is quicker to ask than to search


@dataclass(slots=True)
class Histogram:
    """Durations of one kind."""

    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)  # by BOUNDS, not cumulative
    seconds: float = 0.0  # the sum of all

    def note(self, seconds: float) -> None:
        """One more."""
        self.buckets[0 if seconds <= SHORTEST else bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)


def sparse(counts: Iterable[int]) -> dict[int, int]:
    """Those that are not zero, by their place: most are, and what a worker says has to fit into a packet."""
    return {place: count for place, count in enumerate(counts) if count}


def dense(counts: dict[int, int]) -> list[int]:
    """The buckets that `sparse` has made small."""
    return [counts.get(place, 0) for place in range(BUCKETS)]

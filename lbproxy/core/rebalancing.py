"""How many long streams should move from which backend to which, so that each has its share.

Connections pile up: after a rolling restart the last master that came back has none, and since a watch lives for
minutes and an informer's connection for ever, that stays so for hours (kubernetes/kubernetes issue 48610). Streams are
moved a few at a time, and with hysteresis: what is nearly even is left alone, what is being evened is evened fully.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

START = 0.10  # of its share: when a backend has so much more, or less, streams are moved ...
STOP = 0.03  # ... until it is no further from it than this
SPARE = 1  # streams: who is no further from its share is left alone
SETTLE = 30  # seconds in which most of the excess should be gone
MOST = 200  # moves a second


class Rebalancing:
    """One pool's, in one worker. `plan` is to be called once a second."""

    __slots__ = ("moving",)

    def __init__(self) -> None:
        self.moving = False

    def plan(self, counts: Sequence[int], worths: Sequence[float]) -> list[tuple[int, int]]:
        """Moves to make now, as (from, to) indices.

        `counts` are the streams of each backend, `worths` their weights; 0 for one that should have none. One with 0
        that has streams gives them away, too.
        """
        total, worth = sum(counts), sum(worths)
        if not total or not worth or len(counts) < 2:
            self.moving = False
            return []
        shares = [total * one / worth for one in worths]
        # Half a stream from its share: who has so much more than another can give one away, and both are nearer.
        least, margin = (0.5, STOP) if self.moving else (SPARE, START)
        excess = [count - share for count, share in zip(counts, shares, strict=True)]
        self.moving = any(
            abs(more) > (max(least, margin * share) if share else 0) for more, share in zip(excess, shares, strict=True)
        )
        if not self.moving:
            return []
        amount = min(MOST, math.ceil(sum(more for more in excess if more > 0) / SETTLE))
        moves: list[tuple[int, int]] = []
        for _ in range(amount):
            source = max(range(len(excess)), key=lambda index: excess[index])
            target = max(
                (index for index in range(len(excess)) if worths[index]),
                key=lambda index: -excess[index],
                default=source,
            )
            # A move that would only swap the roles of the two is none.
            if source == target or (excess[source] - excess[target] <= 1 and worths[source]):
                break
            excess[source] -= 1
            excess[target] += 1
            moves.append((source, target))
        self.moving = bool(moves)
        return moves


def spread(counts: Sequence[int], worths: Sequence[float]) -> float:
    """How uneven it is: the largest distance from a share, as a part of the average count. 0 is even."""
    used = [(count, worth) for count, worth in zip(counts, worths, strict=True) if worth]
    total, worth = sum(count for count, _ in used), sum(worth for _, worth in used)
    if not total:
        return 0.0
    average = total / len(used)
    return max(abs(count - total * one / worth) for count, one in used) / average

"""The last minutes, a number a second: rates, connections and long streams, and how long the checks took.

Made from counters that the control plane has anyway: a worker is asked for nothing more because of it. It is bounded
by lb.yaml: a backend costs 5 KB.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lbproxy.admin.view import BackendView, View
from lbproxy.core.config import Mode
from lbproxy.core.health import Verdict
from lbproxy.core.messages import Stats

SPAN = 300  # samples
INTERVAL = 1.0  # seconds between two of them, as often as the counters are looked at

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Now:
    """What is sampled of a listener or a backend; `total` only grows, and what is kept is by how much a second."""

    total: int
    gauges: dict[str, float]


class History:
    """Rings of samples that turn together; `last` is the number of the newest sample, the first one being 1."""

    def __init__(self, span: int = SPAN) -> None:
        self.last = 0
        self._span = span
        self._at = -math.inf
        self._totals: dict[Key, int] = {}
        self._rings: dict[Key, dict[str, array[float]]] = {}

    def sample(self, now: float, view: View, stats: Stats) -> None:
        """Add one; `now` in seconds by a monotonic clock, `stats` in the shape of the view's configuration."""
        elapsed, self._at = now - self._at, now
        self.last += 1
        seen = dict(_seen(view, stats))
        self._rings = {key: self._rings.get(key) or self._empty(one) for key, one in seen.items()}
        for key, one in seen.items():
            rings, before = self._rings[key], self._totals.get(key)
            rings["rate"][self.last % self._span] = math.nan if before is None else max(one.total - before, 0) / elapsed
            for name, value in one.gauges.items():
                rings[name][self.last % self._span] = value
        self._totals = {key: one.total for key, one in seen.items()}

    def since(self, number: int, view: View) -> dict[str, Any]:
        """The samples after that number, or all if it is not one of those that are kept. null: not known."""
        first = max(self.last - self._span, 0)
        if first <= number <= self.last:
            first = number
        places = [one % self._span for one in range(first + 1, self.last + 1)]
        return {
            "interval_s": INTERVAL,
            "first": first + 1,
            "last": self.last,
            "listeners": [{"name": one.name, **self._values(("", one.name), places)} for one in view.config.listeners],
            "pools": [
                {
                    "name": pool.name,
                    "backends": [
                        {"address": one.address.text, **self._values((pool.name, one.address.text), places)}
                        for one in pool.backends
                    ],
                }
                for pool in view.config.pools
            ],
        }

    def _empty(self, one: _Now) -> dict[str, array[float]]:
        return {name: array("f", [math.nan]) * self._span for name in ("rate", *one.gauges)}

    def _values(self, key: Key, places: list[int]) -> dict[str, list[float | None]]:
        """By name; none for what has just come with a reload."""
        return {
            name: [None if math.isnan(ring[place]) else round(ring[place], 1) for place in places]
            for name, ring in self._rings.get(key, {}).items()
        }


def _seen(view: View, stats: Stats) -> Iterator[tuple[Key, _Now]]:
    """A listener is counted by its requests, or by its connections where there are none."""
    for listener, counted in zip(view.config.listeners, stats.listeners, strict=True):
        total = counted.requests if listener.mode is Mode.HTTP else counted.accepted
        yield ("", listener.name), _Now(total, {"active": counted.active})
    for pool, backends in view.pools().items():
        for backend, given in zip(backends, stats.pools[pool], strict=True):
            gauges = {
                "active": given.active,
                "long_streams": given.long_streams,
                "latency_ms": _latency_ms(backend),
            }
            yield (pool, backend.config.address.text), _Now(given.total, gauges)


def _latency_ms(backend: BackendView) -> float:
    """Of the last check, if somebody was there."""
    if backend.last is None or backend.last.verdict not in (Verdict.UP, Verdict.NOT_READY):
        return math.nan
    return backend.last.times.total * 1000

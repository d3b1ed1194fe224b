"""Families of metrics, made of rows: the values of the labels, and something that has the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from lbproxy.admin.metrics.scrape import Labels
from lbproxy.core.histogram import BOUNDS
from lbproxy.core.messages import BackendStats, ListenerStats

BACKEND = ["pool", "backend"]

Row = TypeVar("Row")
Bucket = tuple[str, float]


def counters(name: str, text: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Metric:
    """One that only grows."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family


def gauges(name: str, text: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Metric:
    """One that goes up and down."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def histograms(name: str, text: str, labels: Labels, rows: Iterable[tuple[Labels, list[Bucket], float]]) -> Metric:
    """Durations: their buckets and their sum."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, buckets, seconds in rows:
        family.add_metric(values, buckets, seconds)
    return family


def cumulative(counts: Iterable[int], bounds: Iterable[float] = BOUNDS) -> list[Bucket]:
    """Buckets as Prometheus has them: each with all that is in the ones before it."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))


def each(rows: Iterable[tuple[Labels, Row]], number: Callable[[Row], float]) -> Iterable[tuple[Labels, float]]:
    """One number of every row."""
    return ((labels, number(row)) for labels, row in rows)


def responses(prefix: str, labels: Labels, rows: Iterable[tuple[Labels, ListenerStats | BackendStats]]) -> Metric:
    """By class of status."""
    return counters(
        f"{prefix}_responses",
        "Responses by class.",
        [*labels, "class"],
        (
            ([*values, f"{number}xx"], stats.responses.get(number, 0))
            for values, stats in rows
            for number in range(1, 6)
        ),
    )


def terminations(prefix: str, labels: Labels, rows: Iterable[tuple[Labels, dict[str, int]]]) -> Metric:
    """By HAProxy's two letters."""
    return counters(
        f"{prefix}_terminations",
        "Connections (tcp) and requests (http) by how they ended: HAProxy's two letters.",
        [*labels, "code"],
        (([*values, code], count) for values, ends in rows for code, count in sorted(ends.items())),
    )

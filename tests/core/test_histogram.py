"""Durations by bounds."""

from __future__ import annotations

import pytest

from lbproxy.core.histogram import BOUNDS, BUCKETS, Histogram, dense, sparse


@pytest.mark.parametrize("place", range(len(BOUNDS)))
def test_a_bound_is_within_its_bucket(place: int) -> None:
    """Prometheus' `le`: less than the bound, or equal to it."""
    times = Histogram()
    times.note(BOUNDS[place])
    times.note(BOUNDS[place] * 1.0001)
    assert sparse(times.buckets) == {place: 1, place + 1: 1}
    assert times.count == 2
    assert times.seconds == pytest.approx(BOUNDS[place] * 2.0001)


def test_what_is_small_is_as_it_was() -> None:
    counts = [0] * BUCKETS
    counts[3], counts[-1] = 7, 1
    assert sparse(counts) == {3: 7, BUCKETS - 1: 1}
    assert dense(sparse(counts)) == counts
    assert dense({}) == [0] * BUCKETS

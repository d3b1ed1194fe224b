"""Which streams are to be moved: enough, not too many, and in the end none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.rebalancing import MOST, Rebalancing, spread

COUNTS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5)), min_size=1, max_size=6)


def run(counts: list[int], worths: list[float], seconds: int) -> list[int]:
    """So many seconds of moving whatever is planned."""
    rebalancing = Rebalancing()
    for _ in range(seconds):
        for source, target in rebalancing.plan(counts, worths):
            counts[source] -= 1
            counts[target] += 1
    return counts


def test_after_a_rolling_restart() -> None:
    """The last master that came back has nothing: even within two minutes."""
    assert run([150, 150, 0], [1, 1, 1], 120) == pytest.approx([100, 100, 100], rel=0.07)
    assert run([3000, 2000, 0], [1, 1, 1], 120) == pytest.approx([1667, 1667, 1666], rel=0.07)


def test_by_weight() -> None:
    counts = run([600, 0], [2, 1], 120)
    assert abs(counts[0] - 400) <= 12


def test_one_that_should_have_none() -> None:
    """A backup while primaries are well: it gives away what it got when they were not."""
    assert run([50, 0, 50], [1, 1, 0], 120) == [50, 50, 0]


@pytest.mark.parametrize("counts", [[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 1, 1], [10, 10, 9], [105, 100, 95], [7]])
def test_what_is_nearly_even_is_left_alone(counts: list[int]) -> None:
    assert Rebalancing().plan(counts, [1] * len(counts)) == []


def test_one_that_has_too_few() -> None:
    """The others share what it lacks, and none of them has a tenth too many: it is no less uneven for that."""
    counts = [109, 87, 104]
    assert spread(counts, [1, 1, 1]) > 0.1
    assert run(counts, [1, 1, 1], 60) == pytest.approx([100, 100, 100], abs=3)


def test_hysteresis() -> None:
    rebalancing = Rebalancing()
    assert rebalancing.plan([108, 96, 96], [1, 1, 1]) == []  # 8 % too many: not enough to begin
    assert rebalancing.plan([112, 94, 94], [1, 1, 1]) != []
    assert rebalancing.plan([108, 96, 96], [1, 1, 1]) != []  # begun: it goes on
    assert rebalancing.plan([102, 99, 99], [1, 1, 1]) == []
    assert rebalancing.plan([108, 96, 96], [1, 1, 1]) == []


@given(COUNTS)
def test_it_ends_evenly_and_loses_nobody(peers: list[tuple[int, int]]) -> None:
    counts, worths = [count for count, _ in peers], [float(worth) for _, worth in peers]
    total = sum(counts)
    after = run(list(counts), worths, 300)
    assert sum(after) == total
    assert min(after) >= 0
    if any(worths) and len(counts) > 1:
        for count, worth in zip(after, worths, strict=True):
            share = total * worth / sum(worths)
            assert abs(count - share) <= max(1.0, 0.1 * share) + 1e-9
        rebalancing = Rebalancing()
        assert rebalancing.plan(after, worths) == []


@given(COUNTS)
def test_each_move_is_from_more_to_less_and_there_are_few(peers: list[tuple[int, int]]) -> None:
    counts, worths = [count for count, _ in peers], [float(worth) for _, worth in peers]
    total, worth = sum(counts), sum(worths)
    moves = Rebalancing().plan(counts, worths)
    assert len(moves) <= MOST
    for source, target in moves:
        assert counts[source] > total * worths[source] / worth
        assert counts[target] < total * worths[target] / worth
        assert worths[target]


def test_spread() -> None:
    assert spread([100, 100, 100], [1, 1, 1]) == 0
    assert spread([150, 150, 0], [1, 1, 1]) == pytest.approx(1.0)
    assert spread([110, 95, 95], [1, 1, 1]) == pytest.approx(0.1)
    assert spread([5, 0], [1, 0]) == 0
    assert spread([0, 0], [1, 1]) == 0

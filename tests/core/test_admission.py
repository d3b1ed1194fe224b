"""A herd is let in at a rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.admission import Admission


def test_a_burst_and_then_the_rate() -> None:
    admission = Admission(10, 60, 0.0)
    assert sum(admission.admit(0.0) for _ in range(100)) == 10
    assert sum(admission.admit(0.5) for _ in range(100)) == 5
    assert sum(admission.admit(30.0) for _ in range(100)) == 10  # what nobody took is not saved up


def test_it_is_in_force_for_a_while() -> None:
    admission = Admission(10, 60, 100.0)
    assert [admission.is_over(now) for now in (100.0, 159.9, 160.0)] == [False, False, True]


def test_a_renewed_one_gives_no_second_burst() -> None:
    admission = Admission(10, 60, 0.0)
    assert sum(admission.admit(0.0) for _ in range(100)) == 10
    admission.renew(4, 60, 0.5)
    assert sum(admission.admit(0.5) for _ in range(100)) == 2
    assert sum(admission.admit(30.0) for _ in range(100)) == 4
    assert [admission.is_over(now) for now in (60.4, 60.5)] == [False, True]


def test_a_low_rate_lets_one_in() -> None:
    """200 a second shared by 300 workers."""
    admission = Admission(0.5, 60, 0.0)
    assert [admission.admit(now) for now in (0.0, 1.0, 2.0, 3.0, 4.0)] == [True, False, True, False, True]


@given(st.lists(st.floats(0, 1), max_size=200), st.integers(1, 20))
def test_never_more_than_the_rate(pauses: list[float], rate: int) -> None:
    admission = Admission(rate, 1e9, 0.0)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        passed += admission.admit(now)
    assert passed <= rate + now * rate + 1e-6

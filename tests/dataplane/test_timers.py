"""The wheel, with a clock of our own."""

from __future__ import annotations

import weakref

from hypothesis import given
from hypothesis import strategies as st

from lbproxy.dataplane.timers import NEVER, TICK, UNFILED, Timed, Timers


class One:
    def __init__(self, timers: Timers) -> None:
        self.timers = timers
        self.deadline = NEVER
        self.filed = UNFILED
        self.fired: list[float] = []

    def on_timeout(self) -> None:
        self.fired.append(self.timers.now)


def raise_again(_timed: Timed) -> None:
    raise AssertionError("a callback raised")


def test_it_fires_once_and_at_most_a_tick_late() -> None:
    timers = Timers(100.0, raise_again)
    one = One(timers)
    timers.arm(one, 1.0)
    timers.turn(100.95)
    assert one.fired == []
    timers.turn(101.0 + 1.01 * TICK)
    assert len(one.fired) == 1
    timers.turn(200.0)
    assert len(one.fired) == 1
    assert len(timers) == 0


def test_never_disarms() -> None:
    timers = Timers(0.0, raise_again)
    one = One(timers)
    timers.arm(one, 1.0)
    one.deadline = NEVER
    timers.turn(10.0)
    assert one.fired == []
    timers.arm(one, 1.0)
    timers.turn(12.0)
    assert len(one.fired) == 1


def test_a_bug_in_one_does_not_keep_the_others_waiting() -> None:
    bugs: list[Timed] = []
    timers = Timers(0.0, bugs.append)

    class Buggy(One):
        def on_timeout(self) -> None:
            raise RuntimeError

    buggy, one = Buggy(timers), One(timers)
    timers.arm(buggy, 1.0)
    timers.arm(one, 1.0)
    timers.turn(2.0)
    assert bugs == [buggy]
    assert len(one.fired) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.0, 30.0), st.floats(0.0, 5.0), st.booleans()), min_size=1, max_size=60
    )
)
def test_whatever_is_armed_fires_in_time_and_never_early(steps: list[tuple[int, float, float, bool]]) -> None:
    """Arms, disarms and turns in any order, against a model that knows each deadline exactly."""
    timers = Timers(1000.0, raise_again)
    timed = [One(timers) for _ in range(3)]
    due = [NEVER, NEVER, NEVER]
    now = 1000.0
    for index, delay, advance, disarm in steps:
        if disarm:
            timed[index].deadline = NEVER
            due[index] = NEVER
        else:
            timers.arm(timed[index], delay)
            due[index] = timers.now + delay
        now += advance
        timers.turn(now)
        for number, one in enumerate(timed):
            if one.fired:
                assert due[number] <= now, "early"
                one.fired.clear()
                due[number] = NEVER
            else:
                assert due[number] > now - 2 * TICK, "late"


def test_what_is_over_soon_is_not_kept_until_its_deadline() -> None:
    """10,000 connections a second, each with half a minute for its head, would be 300,000 that nobody needs."""

    timers = Timers(0.0, raise_again)
    over = One(timers)
    timers.arm(over, 32.0)
    over.deadline = NEVER
    gone = weakref.ref(over)
    del over
    assert gone() is not None
    timers.turn(1.5)
    assert gone() is None
    assert len(timers) == 0


# -- what is most likely over soon -------------------------------------------------------------------------------


def test_what_is_over_before_the_sweep_is_kept_by_nobody() -> None:
    timers = Timers(100.0, raise_again)
    one = One(timers)
    timers.arm_briefly(one, 30.0)
    assert len(timers) == 1
    timers.brief.discard(one)
    gone = weakref.ref(one)
    del one
    assert gone() is None
    assert len(timers) == 0


@given(
    st.floats(0.0, 3.0),
    st.lists(st.tuples(st.floats(0.0, 1.5), st.one_of(st.none(), st.floats(0.05, 3.0))), max_size=4),
    st.floats(0.0, 1.0),
)
def test_armed_briefly_or_not_it_fires_when_it_should(
    delay: float, changes: list[tuple[float, float | None]], begin: float
) -> None:
    """Whatever happens to the deadline meanwhile: (seconds later, new delay or None for never)."""
    timers = Timers(100.0, raise_again)
    one = One(timers)
    now = 100.0 + begin
    timers.turn(now)
    timers.arm_briefly(one, delay)
    due = one.deadline
    for later, new in [*changes, (5.0, None)]:
        end = now + later
        while now < end:
            fired = len(one.fired)
            now = min(now + 0.03, end)
            timers.turn(now)
            if len(one.fired) > fired:
                assert due <= now <= due + 2 * TICK
                due = NEVER
            assert now <= due + 2 * TICK
        if new is None:
            one.deadline = due = NEVER
        else:
            timers.arm(one, new)
            due = one.deadline
    assert len(timers.brief) == 0

"""What checks count."""

from __future__ import annotations

import pytest

from lbproxy.core.check_counts import CheckCounts, Stage
from lbproxy.core.health import CheckResult, CheckTimes, Health, HealthChanged, Verdict

FINE = CheckResult(Verdict.UP, "fine", 200, times=CheckTimes(0.001, 0.002, 0.004))


def change(old: Health, new: Health) -> HealthChanged:
    return HealthChanged(old, new, "because")


def test_each_stage_has_its_times() -> None:
    counts = CheckCounts()
    counts.note(FINE, None, 0.0)
    counts.note(CheckResult(Verdict.DOWN, "no", times=CheckTimes(1.0)), None, 0.0)
    assert counts.made == 2
    assert {stage: times.count for stage, times in counts.stages.items()} == {
        Stage.CONNECT: 2,
        Stage.TLS: 1,
        Stage.ANSWER: 1,
    }
    assert counts.stages[Stage.CONNECT].seconds == pytest.approx(1.001)


@pytest.mark.parametrize(
    ("times", "verdict", "stage"),
    [
        (CheckTimes(), Verdict.NONE, Stage.PREPARE),
        (CheckTimes(1.0), Verdict.DOWN, Stage.CONNECT),
        (CheckTimes(0.1, 2.0), Verdict.NOT_READY, Stage.TLS),
        (CheckTimes(0.1, None, 5.0), Verdict.NOT_READY, Stage.ANSWER),
        (CheckTimes(0.1, 0.1, 5.0), Verdict.NOT_READY, Stage.ANSWER),
    ],
)
def test_a_failure_counts_where_the_check_ended(times: CheckTimes, verdict: Verdict, stage: Stage) -> None:
    counts = CheckCounts()
    before = set(counts.failures)
    counts.note(FINE, None, 0.0)
    counts.note(CheckResult(verdict, "no", times=times), None, 0.0)
    assert {key for key, count in counts.failures.items() if count} == {(stage, verdict)}
    assert set(counts.failures) == before, "every series has been there from the beginning"


def test_downtime_goes_on_until_it_is_up() -> None:
    counts = CheckCounts()
    counts.note(FINE, change(Health.UNKNOWN, Health.UP), 5.0)
    assert counts.downtime(10.0) == 0.0
    counts.note(FINE, change(Health.UP, Health.DOWN), 10.0)
    assert counts.downtime(12.0) == 2.0
    counts.note(FINE, change(Health.DOWN, Health.NOT_READY), 13.0)
    assert counts.downtime(14.0) == 4.0
    counts.note(FINE, change(Health.NOT_READY, Health.UP), 15.0)
    assert counts.downtime(100.0) == 5.0
    counts.note(FINE, change(Health.UP, Health.DOWN), 100.0)
    assert counts.downtime(101.0) == 6.0
    assert counts.changes == 5

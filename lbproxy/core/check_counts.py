"""What the checks of one backend have counted: how long stages took, how they failed, how long it was away."""

from __future__ import annotations

from enum import Enum

from lbproxy.core.health import CheckResult, Health, HealthChanged, Verdict
from lbproxy.core.histogram import Histogram

_AWAY = frozenset({Health.NOT_READY, Health.DOWN})


class Stage(Enum):
    """Where a check is; its value is the field's name in CheckTimes."""

    PREPARE = "prepare"  # our own files: nothing has been sent
    CONNECT = "connect"
    TLS = "tls"
    ANSWER = "answer"


_TIMED = (Stage.ANSWER, Stage.TLS, Stage.CONNECT)  # the last one first
_FAILURES = (
    (Stage.PREPARE, Verdict.NONE),
    (Stage.CONNECT, Verdict.NONE),
    (Stage.CONNECT, Verdict.DOWN),
    (Stage.TLS, Verdict.DOWN),
    (Stage.TLS, Verdict.NOT_READY),
    (Stage.ANSWER, Verdict.DOWN),
    (Stage.ANSWER, Verdict.NOT_READY),
)


class CheckCounts:
    """All of it only grows. `now` is by any steady clock."""

    __slots__ = ("_away_for", "_away_since", "changes", "failures", "made", "stages")

    def __init__(self) -> None:
        self.made = 0
        self.changes = 0
        self.stages = {stage: Histogram() for stage in reversed(_TIMED)}
        self.failures = dict.fromkeys(_FAILURES, 0)  # by the stage in which it ended, and the verdict
        self._away_since: float | None = None  # not ready, or down
        self._away_for = 0.0  # before that

    def note(self, result: CheckResult, change: HealthChanged | None, now: float) -> None:
        """A check, and what followed from it."""
        self.made += 1
        reached = Stage.PREPARE
        for stage in _TIMED:
            seconds = getattr(result.times, stage.value)
            if seconds is not None:
                self.stages[stage].note(seconds)
                reached = stage if reached is Stage.PREPARE else reached
        if result.verdict is not Verdict.UP:
            key = reached, result.verdict
            self.failures[key] = self.failures.get(key, 0) + 1
        if change is not None:
            self.changes += 1
            self.begin(change.new, now)

    def begin(self, health: Health, now: float) -> None:
        """From now on it has this health."""
        away = health in _AWAY
        if away and self._away_since is None:
            self._away_since = now
        elif not away and self._away_since is not None:
            self._away_for += now - self._away_since
            self._away_since = None

    def downtime(self, now: float) -> float:
        """Seconds that it was not ready or down."""
        return self._away_for + (0.0 if self._away_since is None else now - self._away_since)

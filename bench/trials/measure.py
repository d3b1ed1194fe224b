"""Taking turns at trials, and what comes of it: rows of medians, with the ratio to nginx and to what is aimed at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.contenders import Contender
from bench.field import Cpus
from bench.summary import REFERENCE, Spread
from bench.trials.stage import Stage, stage
from bench.trials.trials import Trial


@dataclass(frozen=True, slots=True)
class TrialRun:
    """One contender's turn."""

    trial: str
    contender: str
    family: str
    round: int
    value: float
    details: dict[str, float]
    errors: int


@dataclass(frozen=True, slots=True)
class TrialTurn:
    round: int
    trial: Trial
    contender: Contender


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One contender in one trial. `met` is about lbproxy alone: is `reach` reached?"""

    trial: str
    title: str
    unit: str
    family: str
    runs: int
    value: Spread
    details: dict[str, float]  # medians
    errors: int
    ratio: float | None
    reach: float | None
    dream: float | None
    met: bool | None


def trial_turns(trials: Sequence[Trial], contenders: Sequence[Contender], rounds: int) -> list[TrialTurn]:
    """All turns, in order: contenders there and back within each trial."""
    turns = []
    for number in range(rounds):
        for trial in trials:
            playing = [each for each in contenders if plays(each, trial)]
            turns += [TrialTurn(number, trial, each) for each in (playing if number % 2 == 0 else playing[::-1])]
    return turns


def plays(contender: Contender, trial: Trial) -> bool:
    return contender.mode is trial.mode and contender.family in trial.families


def take(turn: TrialTurn, directory: Path, cpus: Cpus, *, full: bool) -> TrialRun:
    """Raises LoadError, OSError."""

    @contextmanager
    def start(*, workers: int = 1, log: bool = False, options: tuple[str, ...] = ()) -> Iterator[Stage]:
        contender = turn.contender
        if options and contender.family == "haproxy":
            contender = replace(contender, command=(*contender.command, *options))
        with stage(contender, directory, cpus, full=full, workers=workers, log=log) as staged:
            yield staged

    result = turn.trial.run(start)
    contender = turn.contender
    return TrialRun(
        turn.trial.name, contender.name, contender.family, turn.round, result.value, result.details, result.errors
    )


def trial_rows(trials: Sequence[Trial], runs: Sequence[TrialRun]) -> list[TrialRow]:
    """A row for each contender of each trial, in the order of the trials."""
    found = []
    for trial in trials:
        groups: dict[str, list[TrialRun]] = {}
        for run in runs:
            if run.trial == trial.name:
                groups.setdefault(run.family, []).append(run)
        reference = Spread.of([run.value for run in groups[REFERENCE]]).median if REFERENCE in groups else None
        found += [_row(trial, groups[family], reference) for family in trial.families if family in groups]
    return found


def _row(trial: Trial, runs: list[TrialRun], reference: float | None) -> TrialRow:
    value = Spread.of([run.value for run in runs])
    ratio = value.median / reference if reference else None
    judged = ratio if trial.relative else value.median
    met = None
    if runs[0].family == "lbproxy" and trial.reach is not None and judged is not None:
        met = judged >= trial.reach if trial.more_is_better else judged <= trial.reach
    names = runs[0].details
    details = {name: Spread.of([run.details.get(name, 0.0) for run in runs]).median for name in names}
    return TrialRow(
        trial.name, trial.title, trial.unit, runs[0].family, len(runs), value, details,
        sum(run.errors for run in runs), ratio, trial.reach, trial.dream, met,
    )  # fmt: skip

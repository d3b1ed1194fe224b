"""Taking turns at trials, and what comes of it: rows of medians, with the ratio to nginx and to what is aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import cpu
from bench.contenders import Contender
from bench.measure import NOISY
from bench.summary import REFERENCE, Spread, counted
from bench.trials.start import Ground, Starter
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
    foreign: float  # share of the machine's CPU time used by processes that are not part of the benchmark

    @property
    def noisy(self) -> bool:
        return self.foreign > NOISY

    @property
    def clean(self) -> bool:
        return not self.errors


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
    noisy: int
    value: Spread
    details: dict[str, float]  # medians
    errors: int
    ratio: float | None
    reach: float | None
    dream: float | None
    met: bool | None


def trial_turns(trials: Sequence[Trial], contenders: Sequence[Contender], rounds: int | None) -> list[TrialTurn]:
    """All turns, in order: contenders there and back within each trial. None: as many rounds as each trial wants."""
    turns = []
    for number in range(max((rounds or trial.rounds for trial in trials), default=0)):
        for trial in trials:
            if number < (rounds or trial.rounds):
                playing = [each for each in contenders if plays(each, trial)]
                turns += [TrialTurn(number, trial, each) for each in (playing if number % 2 == 0 else playing[::-1])]
    return turns


def plays(contender: Contender, trial: Trial) -> bool:
    return contender.mode is trial.mode and contender.family in trial.families


def take(turn: TrialTurn, ground: Ground) -> TrialRun:
    """Raises LoadError, OSError, SitsOutError."""
    start = Starter(ground, turn.contender)
    own, before = cpu.own_ns(), cpu.now()
    result = turn.trial.run(start)
    after, own = cpu.now(), cpu.own_ns() - own
    foreign = max(0, before.busy_ns_until(after) - own - start.ledger.spent_ns)
    contender = turn.contender
    return TrialRun(
        turn.trial.name, contender.name, contender.family, turn.round, result.value, result.details, result.errors,
        foreign / ((after.at_ns - before.at_ns) * after.cpus),
    )  # fmt: skip


def trial_rows(trials: Sequence[Trial], runs: Sequence[TrialRun]) -> list[TrialRow]:
    """A row for each contender of each trial, in the order of the trials."""
    found = []
    for trial in trials:
        groups: dict[str, list[TrialRun]] = {}
        for run in runs:
            if run.trial == trial.name:
                groups.setdefault(run.family, []).append(run)
        fair = counted(groups)
        reference = fair.get(REFERENCE, [])
        base = Spread.of([run.value for run in reference]).median if any(run.clean for run in reference) else None
        found += [_row(trial, groups[family], fair[family], base) for family in trial.families if family in groups]
    return found


def _row(trial: Trial, runs: list[TrialRun], fair: Sequence[TrialRun], reference: float | None) -> TrialRow:
    value = Spread.of([run.value for run in fair])
    clean = any(run.clean for run in fair)
    ratio = value.median / reference if reference and clean else None
    judged = ratio if trial.relative else value.median
    met = None
    if runs[0].family == "lbproxy" and trial.reach is not None and judged is not None:
        met = clean and (judged >= trial.reach if trial.more_is_better else judged <= trial.reach)
    details = {name: Spread.of([run.details.get(name, 0.0) for run in fair]).median for name in fair[0].details}
    return TrialRow(
        trial.name, trial.title, trial.unit, runs[0].family, len(runs), sum(run.noisy for run in runs), value, details,
        sum(run.errors for run in runs), ratio, trial.reach, trial.dream, met,
    )  # fmt: skip

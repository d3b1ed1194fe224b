"""From runs to rows: medians with their spread, and the ratio to nginx."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.measure import Run

REFERENCE = "nginx"


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError: there are none."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one scenario, over all rounds.

    Noisy runs are left out of the medians where at least half of the runs of every contender in the scenario are
    quiet, and nowhere else: noise makes all of them dearer, so quiet runs may not be compared with noisy ones.
    """

    scenario: str
    contender: str
    family: str
    runs: int
    noisy: int
    errors: int
    unverified: int
    cpu_us: Spread | None
    machine_us: Spread
    operations_per_second: Spread
    p50_us: Spread
    p99_us: Spread
    cpu_ratio: float | None = None  # to REFERENCE in the same scenario; under 1 is cheaper
    rate_ratio: float | None = None  # over 1 is faster


def rows(runs: Sequence[Run]) -> list[Row]:
    """A row for each contender of each scenario, in the order in which they first ran."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.scenario, run.family), []).append(run)
    dirty = {scenario for (scenario, _), group in groups.items() if len(_quiet(group)) * 2 < len(group)}
    plain = {key: _row(group, group if key[0] in dirty else _quiet(group)) for key, group in groups.items()}
    return [_compared(row, plain.get((row.scenario, REFERENCE))) for row in plain.values()]


def _quiet(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if not run.noisy]


def _row(runs: Sequence[Run], counted: Sequence[Run]) -> Row:
    first = runs[0]
    costs = [run.cpu_us for run in counted if run.cpu_us is not None]
    return Row(
        scenario=first.scenario,
        contender=first.contender,
        family=first.family,
        runs=len(runs),
        noisy=len(runs) - len(_quiet(runs)),
        errors=sum(run.load.failed for run in runs),
        unverified=sum(not run.verified for run in runs),
        cpu_us=Spread.of(costs) if costs else None,
        machine_us=_spread(counted, lambda run: run.machine_us),
        operations_per_second=_spread(counted, lambda run: run.operations_per_second),
        p50_us=_spread(counted, lambda run: run.load.p50_us),
        p99_us=_spread(counted, lambda run: run.load.p99_us),
    )


def _spread(runs: Iterable[Run], value: Callable[[Run], float]) -> Spread:
    return Spread.of([value(run) for run in runs])


def _compared(row: Row, reference: Row | None) -> Row:
    if reference is None:
        return row
    cost = row.cpu_us.median / reference.cpu_us.median if row.cpu_us and reference.cpu_us else None
    rate = row.operations_per_second.median / reference.operations_per_second.median
    return replace(row, cpu_ratio=cost, rate_ratio=rate)

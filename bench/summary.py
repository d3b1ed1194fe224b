"""From runs to rows: medians with their spread, and the ratio to nginx."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol, TypeVar

from bench.measure import Run

REFERENCE = "nginx"
M = TypeVar("M", bound="Measured")


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

    See counted() for which runs the medians are of. Where no run was without errors there is no ratio.
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
    scenarios: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        scenarios.setdefault(run.scenario, {}).setdefault(run.family, []).append(run)
    found = []
    for groups in scenarios.values():
        fair = counted(groups)
        plain = {family: _row(group, fair[family]) for family, group in groups.items()}
        clean = {family for family, group in fair.items() if any(run.clean for run in group)}
        reference = plain[REFERENCE] if REFERENCE in clean else None
        found += [_compared(row, reference) if family in clean else row for family, row in plain.items()]
    return found


class Measured(Protocol):
    """A run of a scenario or of a trial."""

    @property
    def noisy(self) -> bool: ...

    @property
    def clean(self) -> bool: ...


def counted(groups: Mapping[str, Sequence[M]]) -> dict[str, list[M]]:
    """Which runs of each contender the medians are of.

    None with an error, if there are others: whoever refuses is quick about it. Noisy ones are left out where at least
    half of the runs of every contender are quiet, and nowhere else: noise makes all of them dearer, so quiet runs may
    not be compared with noisy ones.
    """
    clean = {name: [run for run in runs if run.clean] or list(runs) for name, runs in groups.items()}
    quiet = {name: [run for run in runs if not run.noisy] for name, runs in clean.items()}
    return quiet if all(len(quiet[name]) * 2 >= len(clean[name]) for name in groups) else clean


def _row(runs: Sequence[Run], fair: Sequence[Run]) -> Row:
    first = runs[0]
    costs = [run.cpu_us for run in fair if run.cpu_us is not None]
    return Row(
        scenario=first.scenario,
        contender=first.contender,
        family=first.family,
        runs=len(runs),
        noisy=sum(run.noisy for run in runs),
        errors=sum(run.load.failed for run in runs),
        unverified=sum(not run.verified for run in runs),
        cpu_us=Spread.of(costs) if costs else None,
        machine_us=_spread(fair, lambda run: run.machine_us),
        operations_per_second=_spread(fair, lambda run: run.operations_per_second),
        p50_us=_spread(fair, lambda run: run.load.p50_us),
        p99_us=_spread(fair, lambda run: run.load.p99_us),
    )


def _spread(runs: Iterable[Run], value: Callable[[Run], float]) -> Spread:
    return Spread.of([value(run) for run in runs])


def _compared(row: Row, reference: Row | None) -> Row:
    if reference is None:
        return row
    cost = row.cpu_us.median / reference.cpu_us.median if row.cpu_us and reference.cpu_us else None
    rate = row.operations_per_second.median / reference.operations_per_second.median
    return replace(row, cpu_ratio=cost, rate_ratio=rate)

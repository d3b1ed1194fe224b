"""What a run leaves behind: a table in the terminal and a JSON file with everything in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.contenders import FAMILIES
from bench.measure import NOISY, Run, Settings
from bench.network import in_words
from bench.scenarios import SCENARIOS
from bench.summary import Row, Spread, rows
from bench.trials.measure import TrialRow, TrialRun, trial_rows
from bench.trials.trials import Trial

_SCENARIOS = [scenario.name for scenario in SCENARIOS]


@dataclass(slots=True)
class Report:
    """Filled as the run goes on."""

    started: str  # ISO 8601
    preset: str
    settings: Settings
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    cpus: Mapping[str, Sequence[int]]  # who ran where
    trials: Sequence[Trial] = ()
    configurations: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)  # turns that were taken again, and why
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    runs: list[Run] = field(default_factory=list)
    trial_runs: list[TrialRun] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Did everything that was asked for run, without an error and with every byte, at the second try at most?"""
        clean = all(run.clean for run in self.runs) and all(run.clean for run in self.trial_runs)
        return bool(self.runs or self.trial_runs) and clean and not self.failed and not self.interrupted

    def as_json(self) -> str:
        plain = {name: getattr(self, name) for name in ("started", "preset", "machine", "versions", "cpus")}
        plain |= {"configurations": self.configurations, "failed": self.failed, "interrupted": self.interrupted}
        plain |= {"repeated": self.repeated, "notes": self.notes}
        lists: dict[str, list[Any]] = {
            "runs": self.runs,
            "trial_runs": self.trial_runs,
            "summary": rows(self.runs),
            "trial_summary": self.trial_rows(),
        }
        tables = {name: [asdict(each) for each in values] for name, values in lists.items()}
        return json.dumps({**plain, "settings": asdict(self.settings), "sound": self.sound, **tables}, indent=1)

    def trial_rows(self) -> list[TrialRow]:
        return trial_rows(self.trials, self.trial_runs)

    def save(self, *files: Path) -> None:
        text = self.as_json()
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

    def heading(self) -> str:
        """Versions, machine and settings in three lines."""
        said = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        network = f"; {words}" if (words := in_words(self.machine)) else ""
        contender, rest = list(self.cpus["contender"]), list(self.cpus["rest"])
        return (
            f"{said}\n{self.machine['cpus']} CPUs ({self.machine['cpu']}); contenders on {contender}, load and "
            f"backends on {rest}{network}\n{self.settings.connections} connections, one worker each, "
            f"{self.settings.rounds} rounds of {self.settings.seconds} s"
        )


def table(runs: Sequence[Run]) -> Table:
    """The summary for the terminal: cost first, speed second."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("scenario, contender", no_wrap=True)
    headings = ("CPU µs/op (min–max)", "÷ nginx", "op/s", "÷ nginx", "p50 µs", "p99 µs", "all CPU", "noisy", "errors")
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    scenario = ""
    for row in sorted(rows(runs), key=_order):
        if row.scenario != scenario:
            scenario = row.scenario
            shown.add_section()
            shown.add_row(f"[bold]{scenario}")
        shown.add_row(*_cells(row), style="cyan" if row.family == "lbproxy" else None)
    return shown


def trial_table(found: Sequence[TrialRow]) -> Table:
    """The trials' summary: each in its own unit."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("trial, contender", no_wrap=True)
    for heading in ("median (min–max)", "unit", "÷ nginx", "aim", "reached", "noisy", "errors"):
        shown.add_column(heading, justify="right", no_wrap=True)
    trial = ""
    for row in found:
        if row.trial != trial:
            trial = row.trial
            shown.add_section()
            shown.add_row(f"[bold]{row.trial}[/] {row.title}")
        ours = row.family == "lbproxy"
        shown.add_row(
            f"  {row.family}",
            _small(row.value),
            row.unit,
            _ratio(row.ratio),
            f"{row.reach:g} ({row.dream:g})" if ours and row.reach and row.dream else "",
            {True: "[green]yes", False: "[red]no", None: ""}[row.met],
            f"{row.noisy}/{row.runs}",
            f"[red]{row.errors}" if row.errors else "0",
            style="cyan" if ours else None,
        )
    return shown


def _small(value: Spread) -> str:
    digits = 2 if value.median < 100 else 0
    return f"{value.median:,.{digits}f} ({value.low:,.{digits}f}–{value.high:,.{digits}f})"


def trial_line(run: TrialRun, trial: Trial) -> str:
    """A trial as it ends, for those who watch."""
    details = ", ".join(f"{name} {value:,.4g}" for name, value in run.details.items())
    faults = f"  {run.errors} errors" if run.errors else ""
    noise = f"  noisy: {run.foreign:.0%}" if run.noisy else ""
    return f"{run.round + 1:2} {run.trial:17}{run.family:10}{run.value:12,.2f} {trial.unit:12} {details}{faults}{noise}"


def _order(row: Row) -> tuple[int, int]:
    return _SCENARIOS.index(row.scenario), FAMILIES.index(row.family)


def _cells(row: Row) -> list[str]:
    return [
        f"  {row.family}",
        _spread(row.cpu_us),
        _ratio(row.cpu_ratio),
        f"{row.operations_per_second.median:,.0f}",
        _ratio(row.rate_ratio),
        f"{row.p50_us.median:,.0f}",
        f"{row.p99_us.median:,.0f}",
        f"{row.machine_us.median:,.1f}",
        f"[yellow]{row.noisy}/{row.runs}" if row.noisy else "",
        _faults(row),
    ]


def _faults(row: Row) -> str:
    said = [f"{row.errors:,}"] if row.errors else []
    said += [f"bytes wrong in {row.unverified}"] if row.unverified else []
    return f"[red]{', '.join(said)}" if said else "0"


def _spread(value: Spread | None) -> str:
    if value is None:
        return "–"
    digits = 1 if value.median < 1000 else 0
    return f"{value.median:,.{digits}f} ({value.low:,.{digits}f}–{value.high:,.{digits}f})"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def one_line(run: Run) -> str:
    """A run as it ends, for those who watch."""
    cost = "" if run.cpu_us is None else f"{run.cpu_us:,.1f} µs/op"
    noise = f"  noisy: {run.foreign:.0%} foreign" if run.noisy else ""
    faults = f"  {run.load.failed} errors {run.load.errors}" if run.load.failed else ""
    faults += "" if run.verified else "  WRONG BYTES"
    return (
        f"{run.round + 1:2} {run.scenario:16}{run.family:15}{cost:>15} {run.operations_per_second:9,.0f} op/s  "
        f"p99 {run.load.p99_us:7,} µs{noise}{faults}"
    )


def explanation() -> str:
    """What the columns are, below the table."""
    return (
        "Medians. CPU µs/op: CPU time of all processes of the contender per operation. all CPU: the same of load "
        f"generator, backends and contender together. noisy: runs in which others used more than {NOISY:.0%} of the "
        "machine, left out where most are quiet. Latency is taken at full load and is mostly queueing: see "
        "bench/README.md."
    )

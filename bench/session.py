"""A whole run: start the field, take all turns with a progress bar beside them, report, stop the field."""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.contenders import Contender
from bench.field import Cpus, Field, field
from bench.html import page
from bench.load import LoadError
from bench.machine import machine, versions
from bench.measure import Settings, measure, turns, warm_up
from bench.network import Network, NoNamespaceError, own_network
from bench.report import Report, explanation, one_line, table, trial_line, trial_table
from bench.selection import Selection
from bench.summary import M
from bench.trials.measure import take, trial_turns
from bench.trials.start import Ground, SitsOutError
from bench.trials.trials import Trial

TRIAL_ROUNDS = {"quick": 1, "normal": 1, "full": None}  # None: as many as each wants


@dataclass(frozen=True, slots=True)
class Session:
    preset: str
    settings: Settings
    selection: Selection
    trials: Sequence[Trial]
    everyone: Sequence[Contender]  # also those who are not selected: rates are taken from nginx's
    pin: bool
    own_network: bool
    results: Path  # the directory where every result is kept
    json: Path | None
    html: Path | None

    def run(self) -> int:
        """Exit status: 0 all ran without an error and with every byte, 1 otherwise, 130 interrupted."""
        console = _console()
        allowed = os.sched_getaffinity(0)
        cpus = Cpus.share(allowed, pin=self.pin)
        _raise_open_files()
        os.sched_setaffinity(0, cpus.rest)  # for wrk, which inherits it
        try:
            with tempfile.TemporaryDirectory(prefix="lbproxy-bench-") as name, _terminable(), ExitStack() as stack:
                directory = Path(name)
                report = self._new_report(cpus, self._enter_network(stack, console))
                if self.selection.scenarios:
                    with field(self.selection.contenders, directory, cpus) as started:
                        self._measure(started, report, console)
                if self.trials and not report.interrupted:
                    self._try(report, directory, cpus, console)
        except LoadError as error:
            console.print(f"[red]{error}", highlight=False)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            os.sched_setaffinity(0, allowed)
        return self._conclude(report, console)

    def _enter_network(self, stack: ExitStack, console: Console) -> Network:
        """Before anything is started, which inherits it."""
        if not self.own_network:
            return Network.MACHINE
        try:
            stack.enter_context(own_network())
        except NoNamespaceError as error:
            console.print(f"the machine's network is used, none can be made: {error}", highlight=False)
            return Network.MACHINE
        return Network.OWN

    def _new_report(self, cpus: Cpus, network: Network) -> Report:
        return Report(
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            preset=self.preset,
            settings=self.settings,
            machine=machine(network),
            versions=versions(),
            cpus={"contender": sorted(cpus.contender), "rest": sorted(cpus.rest)},
            trials=self.trials,
        )

    def _measure(self, started: Field, report: Report, console: Console) -> None:
        report.configurations.update({each.contender.name: each.config for each in started.entrants if each.config})
        report.failed.update(started.failed)
        for contender, why in started.failed.items():
            console.print(f"[red]{contender} does not take part: {why}", highlight=False)
        try:
            self._take_turns(started, report, console)
        except KeyboardInterrupt:
            report.interrupted = True  # what has been measured is still shown and kept

    def _try(self, report: Report, directory: Path, cpus: Cpus, console: Console) -> None:
        """The trials, each with its contender started anew."""
        ground = Ground(self.everyone, directory, cpus, self.preset != "quick", notes=report.notes)
        todo = trial_turns(self.trials, self.selection.contenders, TRIAL_ROUNDS[self.preset])
        try:
            with _progress(console) as progress:
                task = progress.add_task("trials", total=len(todo))
                for turn in todo:
                    name = f"{turn.trial.name} {turn.contender.family}"
                    progress.update(task, description=f"round {turn.round + 1}: {name}")
                    try:
                        run = self._twice(partial(take, turn, ground), f"{name}, round {turn.round + 1}", report)
                        report.trial_runs.append(run)
                        progress.console.print(trial_line(run, turn.trial), highlight=False)
                    except SitsOutError as error:
                        note = f"{name} sits out: {error}"
                        report.notes += [note] if note not in report.notes else []
                    except (LoadError, OSError) as error:
                        report.failed[f"{name}, round {turn.round + 1}"] = str(error)
                        progress.console.print(f"[red]{name}: {error}", highlight=False)
                    progress.advance(task)
        except KeyboardInterrupt:
            report.interrupted = True

    def _twice(self, take_turn: Callable[[], M], name: str, report: Report) -> M:
        """Once more if it fails or has errors; the result names the first try. Raises what the second does."""
        try:
            run = take_turn()
            if run.clean:
                return run
            report.repeated[name] = "it had errors"
        except (LoadError, OSError) as error:
            report.repeated[name] = str(error)
        return take_turn()

    def _take_turns(self, started: Field, report: Report, console: Console) -> None:
        scenarios = self.selection.scenarios
        todo = turns(started, scenarios, self.settings.rounds)
        with _progress(console) as progress:
            task = progress.add_task("warming up", total=len(todo))
            progress.console.print(f"{len(todo)} runs of {self.settings.seconds} s")
            for _ in warm_up(started, scenarios, self.settings):
                progress.refresh()
            for turn in todo:
                name = f"{turn.scenario.name} {turn.entrant.contender.family}"
                progress.update(task, description=f"round {turn.round + 1}: {name}")
                take_turn = partial(measure, turn, started, self.settings)
                try:
                    report.runs.append(self._twice(take_turn, f"{name}, round {turn.round + 1}", report))
                    progress.console.print(one_line(report.runs[-1]), highlight=False)
                except (LoadError, OSError) as error:
                    report.failed[f"{name}, round {turn.round + 1}"] = str(error)
                    progress.console.print(f"[red]{name}: {error}", highlight=False)
                progress.advance(task)

    def _conclude(self, report: Report, console: Console) -> int:
        if not report.runs and not report.trial_runs:
            console.print("[red]nothing was measured")
            return 130 if report.interrupted else 1
        files = [self.results / _file_name(report), *([self.json] if self.json else [])]
        report.save(*files)
        html = self.html or files[0].with_suffix(".html")
        html.write_text(page(json.loads(report.as_json())))
        console.print()
        console.print(report.heading(), highlight=False, style="dim")
        if report.runs:
            console.print(table(report.runs))
            console.print(explanation(), highlight=False, style="dim")
        if report.trial_runs:
            console.print(trial_table(report.trial_rows()))
        for note in (*report.notes, *(f"repeated: {name}: {why}" for name, why in report.repeated.items())):
            console.print(note, highlight=False, style="dim")
        console.print(f"kept as {', '.join(str(file) for file in (*files, html))}", highlight=False)
        return 130 if report.interrupted else 0 if report.sound else 1


def _console() -> Console:
    """In a pipe, rich takes 80 columns for granted; the table has 105."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _progress(console: Console) -> Progress:
    bar = (TextColumn("{task.description:44}"), BarColumn(), MofNCompleteColumn())
    return Progress(*bar, TimeElapsedColumn(), TimeRemainingColumn(), console=console, refresh_per_second=2)


def _file_name(report: Report) -> str:
    when = datetime.fromisoformat(report.started).strftime("%Y-%m-%d-%H%M%S")
    return f"{when}-{report.versions['lbproxy'].replace('+', '-changed')}-{report.preset}.json"


def _raise_open_files() -> None:
    """Contenders inherit our limit: give them all that we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: nothing that it started stays behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

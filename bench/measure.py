"""Measuring: one run, and the order of all runs.

Contenders take turns within each round, and every second round goes backwards (ABBA): what drifts with time (the
machine's neighbours, its temperature, the page cache) falls on all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import cpu
from bench.field import Entrant, Field
from bench.load import Load, LoadError, probe, run_wrk
from bench.scenarios import Scenario

NOISY = 0.05  # share of the machine's CPU time that others may use before a run is marked


@dataclass(frozen=True, slots=True)
class Settings:
    rounds: int
    seconds: int  # of one run
    connections: int  # open at the same time


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one contender in one scenario."""

    scenario: str
    contender: str
    family: str
    round: int
    load: Load
    cpu_ns: int | None  # of all the contender's processes; None for direct, which has none
    machine_ns: int  # busy time of all CPUs, less what others used
    foreign: float  # share of the machine's CPU time used by processes that are not part of the benchmark
    verified: bool  # every byte that should have come has come

    @property
    def noisy(self) -> bool:
        return self.foreign > NOISY

    @property
    def clean(self) -> bool:
        """Without an error, and with every byte."""
        return self.verified and not self.load.failed

    @property
    def operations_per_second(self) -> float:
        return self.load.requests * 1e6 / self.load.duration_us

    @property
    def cpu_us(self) -> float | None:
        """CPU time of the contender per operation."""
        return None if self.cpu_ns is None else self.cpu_ns / 1000 / self.load.requests

    @property
    def machine_us(self) -> float:
        """CPU time of load generator, backends, contender and kernel per operation."""
        return self.machine_ns / 1000 / self.load.requests


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is."""

    round: int
    scenario: Scenario
    entrant: Entrant


def turns(field: Field, scenarios: Sequence[Scenario], rounds: int) -> list[Turn]:
    """All turns of a run, in order."""
    return [
        Turn(number, scenario, entrant)
        for number in range(rounds)
        for scenario in scenarios
        for entrant in _there_or_back(field.taking_part(scenario), number)
    ]


def _there_or_back(entrants: list[Entrant], number: int) -> list[Entrant]:
    return entrants if number % 2 == 0 else entrants[::-1]


def warm_up(field: Field, scenarios: Sequence[Scenario], settings: Settings) -> Iterator[Entrant]:
    """A second of load on each contender that nobody counts, in the first scenario it takes part in."""
    for entrant in field.entrants:
        own = [scenario for scenario in scenarios if entrant in field.taking_part(scenario)]
        if own:
            run_wrk(own[0], entrant.port, settings.connections, 1)
            yield entrant


def measure(turn: Turn, field: Field, settings: Settings) -> Run:
    """Take a turn. Raises LoadError, OSError: there is nothing to count, or the contender did not live through it."""
    scenario, entrant = turn.scenario, turn.entrant
    answer_size = probe(scenario, entrant.port)
    members = entrant.process.pids() if entrant.process else ()
    everyone = {each.process for each in field.entrants if each.process} | {field.backends}
    ours = tuple(pid for process in everyone for pid in process.pids())

    ours_before, members_before, before = cpu.family_cpu_ns(ours) + cpu.own_ns(), cpu.family_cpu_ns(members), cpu.now()
    load = run_wrk(scenario, entrant.port, settings.connections, settings.seconds)
    after, members_after, ours_after = cpu.now(), cpu.family_cpu_ns(members), cpu.family_cpu_ns(ours) + cpu.own_ns()

    if not load.requests:
        raise LoadError(f"{entrant.contender.name} answered nothing in {scenario.name}: {load.errors}")
    if entrant.process and set(entrant.process.pids()) != set(members):
        raise LoadError(f"{entrant.contender.name}: a process was replaced during the run")
    machine = (after.at_ns - before.at_ns) * after.cpus
    foreign = max(0, before.busy_ns_until(after) - (ours_after - ours_before))
    return Run(
        scenario=scenario.name,
        contender=entrant.contender.name,
        family=entrant.contender.family,
        round=turn.round,
        load=load,
        cpu_ns=members_after - members_before if members else None,
        machine_ns=ours_after - ours_before,
        foreign=foreign / machine,
        verified=load.has_every_byte(answer_size, settings.connections),
    )

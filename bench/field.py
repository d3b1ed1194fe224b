"""The field of a run: backends and contenders, started together, ready, and stopped whatever happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.backends import start_backends
from bench.contenders import Contender, Place
from bench.load import LoadError, probe
from bench.process import Process, free_ports
from bench.scenarios import SCENARIOS, Mode, Scenario

READY_SECONDS = 15.0
BACKENDS = 3


@dataclass(frozen=True, slots=True)
class Cpus:
    """Who runs where: contenders on CPUs of their own, load and backends on the others, if there are two or more."""

    contender: set[int]
    rest: set[int]

    @property
    def all(self) -> set[int]:
        return self.contender | self.rest

    @classmethod
    def share(cls, allowed: set[int], *, pin: bool) -> Cpus:
        if not pin or len(allowed) < 2:
            return cls(allowed, allowed)
        last = max(allowed)
        return cls({last}, allowed - {last})


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender that runs. `process` is None for direct: the backends answer."""

    contender: Contender
    port: int
    config: str
    process: Process | None


@dataclass(frozen=True, slots=True)
class Field:
    entrants: Sequence[Entrant]
    backends: Process
    failed: Mapping[str, str]  # contenders that did not start, and their last words

    def taking_part(self, scenario: Scenario) -> list[Entrant]:
        """The entrants that are measured in a scenario, in the order of the table."""
        return [each for each in self.entrants if takes_part(each.contender, scenario)]


def takes_part(contender: Contender, scenario: Scenario) -> bool:
    if contender.mode != scenario.mode:
        return False
    return not contender.small_only if scenario.bulk else not contender.bulk_only


@contextmanager
def field(contenders: Sequence[Contender], directory: Path, cpus: Cpus) -> Iterator[Field]:
    """Start everyone. A contender that does not get ready is reported in `failed`; backends must. Raises LoadError."""
    with ExitStack() as stack:
        ports = free_ports(BACKENDS + 2 * len(contenders))
        backends = start_backends(directory, ports[:BACKENDS], cpus.rest)
        stack.callback(backends.stop)
        _wait_ready(backends, Mode.TCP, ports[0])
        entrants, failed = [], {}
        for contender, port, admin in zip(contenders, ports[BACKENDS::2], ports[BACKENDS + 1 :: 2], strict=True):
            try:
                entrants.append(_enter(contender, Place(directory, port, ports[:BACKENDS], admin=admin), cpus, stack))
            except (LoadError, OSError) as error:
                failed[contender.name] = str(error)
        yield Field(entrants, backends, failed)


def _enter(contender: Contender, place: Place, cpus: Cpus, stack: ExitStack) -> Entrant:
    if not contender.command:
        return Entrant(contender, place.backends[0], "", None)
    config = contender.configure(place)
    file = place.directory / f"{contender.name}.conf"
    file.write_text(config)
    argv = [str(file) if word == "{config}" else word for word in contender.command]
    process = Process.start(contender.name, argv, place.directory, cpus.contender)
    stack.callback(process.stop)
    _wait_ready(process, contender.mode, place.port)
    return Entrant(contender, place.port, config, process)


def _wait_ready(process: Process, mode: Mode, port: int) -> None:
    """Until it serves everything as it should. Raises LoadError: it does not, READY_SECONDS after its start."""
    deadline = time.monotonic() + READY_SECONDS
    pending = [scenario for scenario in SCENARIOS if scenario.mode == mode]
    while pending:
        try:
            probe(pending[0], port)
            pending.pop(0)
        except (LoadError, OSError) as error:
            if process.ended or time.monotonic() > deadline:
                raise LoadError(f"{process.name} is not ready: {error}\n{process.last_words()}") from error
            time.sleep(0.05)

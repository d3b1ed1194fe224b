"""Who starts what a trial asks for: the contender whose turn it is, or another one beside it, as often as need be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.contenders import Contender
from bench.field import Cpus
from bench.scenarios import Mode
from bench.trials.stage import Ledger, Stage, stage


class SitsOutError(Exception):
    """This contender cannot take part here, for a reason that is no fault of anybody."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per second that every contender is sent, in the trials of latency."""

    rate: int
    nginx_peak: float


@dataclass(frozen=True, slots=True)
class Ground:
    """What all trials of a run have in common. `rates` and `notes` fill as the run goes on."""

    everyone: Sequence[Contender]
    directory: Path
    cpus: Cpus
    full: bool
    rates: dict[Mode, Rate] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # for whoever reads the result


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts a contender anew, each time it is called."""

    ground: Ground
    contender: Contender
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def full(self) -> bool:
        return self.ground.full

    def beside(self, family: str) -> Starter:
        """Somebody else's, in the same mode."""
        mode = self.contender.mode
        other = next(each for each in self.ground.everyone if each.family == family and each.mode is mode)
        return replace(self, contender=other)

    @contextmanager
    def __call__(
        self, *, workers: int = 1, log: bool = False, plain: bool = False, options: tuple[str, ...] = ()
    ) -> Iterator[Stage]:
        """`options` are added to HAProxy's command line. Raises LoadError, OSError."""
        contender = self.contender
        if options and contender.family == "haproxy":
            contender = replace(contender, command=(*contender.command, *options))
        ground = self.ground
        with stage(
            contender, ground.directory, ground.cpus, self.ledger,
            full=ground.full, workers=workers, log=log, plain=plain,
        ) as staged:  # fmt: skip
            yield staged

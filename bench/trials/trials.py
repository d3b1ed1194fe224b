"""The trials: what each measures, in which unit, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bench.scenarios import Mode
from bench.trials import clock, processes, streams
from bench.trials.result import Result
from bench.trials.stage import Stage


class Start(Protocol):
    """Starts the contender of a turn anew."""

    def __call__(
        self, *, workers: int = 1, log: bool = False, options: tuple[str, ...] = ()
    ) -> AbstractContextManager[Stage]:
        """`options` are added to its command line."""


@dataclass(frozen=True, slots=True)
class Trial:
    """`reach` and `dream` are the project's aims for lbproxy: of the value itself, or of its ratio to nginx's."""

    name: str
    mode: Mode
    title: str
    unit: str
    run: Callable[[Start], Result]
    reach: float | None = None
    dream: float | None = None
    relative: bool = False
    more_is_better: bool = False
    quick: bool = False  # part of --quick
    families: tuple[str, ...] = ("direct", "lbproxy", "nginx", "haproxy")


def _once(function: Callable[[Stage], Result]) -> Callable[[Start], Result]:
    def run(start: Start) -> Result:
        with start() as stage:
            return function(stage)

    return run


def _two_workers(start: Start) -> Result:
    with start() as stage:
        one = processes.throughput(stage)
    with start(workers=2) as stage:
        two = processes.throughput(stage)
    cost_1, cost_2 = one.details["cpu_us"], two.details["cpu_us"]
    details = {"cpu_us_1": cost_1, "cpu_us_2": cost_2, "rate_1": one.value, "rate_2": two.value}
    # On two cores the load generator and the backends leave no room for a second worker, so rates say nothing about
    # it. What two workers could serve, had they a core each, follows from what a request costs them.
    return Result(2 * cost_1 / cost_2, details, one.errors + two.errors)


def _access_log(start: Start) -> Result:
    with start() as stage:
        off = processes.cost(stage)
    with start(log=True) as stage:
        on = processes.cost(stage)
    return Result(on.value - off.value, {"off": off.value, "on": on.value}, off.errors + on.errors)


def _reload(start: Start) -> Result:
    with start(options=("-W",)) as stage:  # HAProxy's master, which is what reloads; for nginx they are left out
        return processes.reload(stage)


HTTP, TCP = Mode.HTTP, Mode.TCP
# HAProxy 2.6 is left out where a thousand watches are opened and more: it overlooks some until their timeout, a minute.
PROXIES = ("lbproxy", "nginx", "haproxy")
TRIALS = (
    Trial(
        "watch", HTTP, "a watch event to each of 1,000 watchers", "CPU µs/event", _once(streams.events), 1.2, 1.0,
        relative=True, quick=True, families=("lbproxy", "nginx"),
    ),
    Trial("idle-watch", HTTP, "resident memory of an idle watch", "KiB", _once(streams.idle_watches), 6, 3,
          families=("lbproxy", "nginx")),
    Trial("idle-tcp", TCP, "resident memory of an idle connection", "KiB", _once(streams.idle_connections), 4, 2,
          families=PROXIES),
    Trial("at-rest", HTTP, "resident memory at rest, all processes", "MB", _once(streams.at_rest), 70, 45,
          quick=True, families=PROXIES),
    Trial("idle-load", HTTP, "10,000 idle watches", "CPU ms/s", _once(streams.idle_load),
          families=("lbproxy", "nginx")),
    Trial("latency-http", HTTP, "p99 at a fixed rate, open loop", "µs", _once(clock.latency), 1.5, 1.1, relative=True),
    Trial("latency-tcp", TCP, "p99 at a fixed rate, open loop", "µs", _once(clock.latency), 1.5, 1.1, relative=True),
    Trial("storm-http", HTTP, "5,000 clients connect and ask at once", "s", _once(clock.storm)),
    Trial("storm-tcp", TCP, "5,000 clients connect and ask at once", "s", _once(clock.storm)),
    Trial("slow-reader", HTTP, "growth while 20 slow readers take 500 MB", "MiB", _once(clock.slow_reader),
          families=PROXIES),
    Trial("two-workers-http", HTTP, "capacity of two workers to one's, by CPU", "×", _two_workers, 1.6,
          more_is_better=True, families=PROXIES),
    Trial("two-workers-tcp", TCP, "capacity of two workers to one's, by CPU", "×", _two_workers, 1.6,
          more_is_better=True, families=PROXIES),
    Trial("access-log", HTTP, "added by a JSON access log", "CPU µs/req", _access_log, 6, 3, families=PROXIES),
    Trial("reload", HTTP, "errors during five reloads", "errors", _reload, families=PROXIES),
)  # fmt: skip

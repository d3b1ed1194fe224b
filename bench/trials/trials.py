"""The trials: what each measures, in which unit, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.scenarios import Mode
from bench.trials import latency, processes, readers, storm, streams
from bench.trials.result import Result
from bench.trials.stage import Stage
from bench.trials.start import Starter


@dataclass(frozen=True, slots=True)
class Trial:
    """`reach` and `dream` are the project's aims for lbproxy: of the value itself, or of its ratio to nginx's."""

    name: str
    mode: Mode
    title: str
    unit: str
    run: Callable[[Starter], Result]
    reach: float | None = None
    dream: float | None = None
    relative: bool = False
    more_is_better: bool = False
    quick: bool = False  # part of --quick
    rounds: int = 3  # of a full run
    families: tuple[str, ...] = ("lbproxy", "nginx", "haproxy")


def _once(function: Callable[[Stage], Result], *, plain: bool = False) -> Callable[[Starter], Result]:
    def run(start: Starter) -> Result:
        with start(plain=plain) as stage:
            return function(stage)

    return run


HTTP, TCP = Mode.HTTP, Mode.TCP
# `direct` takes part where there is something to see without a proxy: it has no CPU, no memory, no log and no reload.
ALL = ("direct", "lbproxy", "nginx", "haproxy")
_STORM = _once(storm.storm, plain=True)
_READERS = _once(readers.slow_readers)
TRIALS = (
    Trial("watch", HTTP, "a watch event to each of 1,000 watchers", "CPU µs/event", _once(streams.events), 1.2, 1.0,
          relative=True, quick=True),
    Trial("idle-watch", HTTP, "resident memory of an idle watch, 5,000 of them", "KiB", _once(streams.idle_watches),
          6, 3, rounds=2),
    Trial("idle-tcp", TCP, "resident memory of an idle connection, 5,000 of them", "KiB",
          _once(streams.idle_connections), 4, 2, rounds=2),
    Trial("at-rest", HTTP, "resident memory at rest, all processes", "MB", _once(streams.at_rest), 70, 45,
          rounds=2),
    Trial("idle-load", HTTP, "10,000 idle watches, two workers", "CPU ms/s", streams.idle_crowd, rounds=2),
    Trial("latency-http", HTTP, "p99 at half of nginx's peak rate, open loop", "µs", latency.latency, 1.5, 1.1,
          relative=True, rounds=5, families=ALL),
    Trial("latency-tcp", TCP, "p99 at half of nginx's peak rate, open loop", "µs", latency.latency, 1.5, 1.1,
          relative=True, rounds=5, families=ALL),
    Trial("storm-http", HTTP, "5,000 clients connect and ask at once, all answered", "s", _STORM, families=ALL),
    Trial("storm-tcp", TCP, "5,000 clients connect and ask at once, all answered", "s", _STORM, families=ALL),
    Trial("slow-reader-http", HTTP, "growth while 20 slow readers take 500 MB each", "MiB", _READERS, rounds=2),
    Trial("slow-reader-tcp", TCP, "growth while 20 slow readers take 500 MB each", "MiB", _READERS, rounds=2),
    Trial("two-workers-http", HTTP, "throughput of two workers to one's, a tenth of a CPU each", "×",
          processes.two_workers, 1.6, more_is_better=True),
    Trial("two-workers-tcp", TCP, "throughput of two workers to one's, a tenth of a CPU each", "×",
          processes.two_workers, 1.6, more_is_better=True),
    Trial("access-log-http", HTTP, "added to a request by a JSON access log", "CPU µs", processes.access_log, 6, 3),
    Trial("access-log-tcp", TCP, "added to a connection by a JSON access log", "CPU µs", processes.access_log_tcp),
    Trial("reload-http", HTTP, "requests that fail during five reloads", "errors", processes.reload),
    Trial("reload-tcp", TCP, "connections that fail during five reloads", "errors", processes.reload_tcp),
)  # fmt: skip

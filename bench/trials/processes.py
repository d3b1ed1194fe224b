"""Trials about the contender's processes: two workers, the access log, a reload under load."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Sequence
from statistics import fmean

from bench import cpu
from bench.load import Load, LoadError
from bench.quota import NoQuotaError, limited
from bench.trials.result import Result
from bench.trials.stage import Stage
from bench.trials.start import SitsOutError, Starter

SHARE = 0.1  # of a CPU, for each worker: the load generator has room for two of them, even on two CPUs


def two_workers(start: Starter) -> Result:
    """Throughput with two workers, a CPU for each, ÷ throughput with one, each worker limited to a tenth of its CPU.

    What a request costs depends on which CPU a worker is on, that of the load generator or another one. One worker is
    therefore measured on both, and two are compared with the mean. wrk connects once: a contender whose connections
    all go to one worker is as fast as with one, and `lesser_2` says so.
    """
    places = [max(start.ground.cpus.contender), min(start.ground.cpus.rest)]
    with start(plain=True) as stage:
        alone = [_throughput(stage, [place]) for place in places]
    with start(plain=True, workers=2) as stage:
        both = _throughput(stage, places)
    one = fmean(each.value for each in alone)
    details = {
        "rate_1": one,
        "rate_2": both.value,
        "cpu_us_1": fmean(each.details["cpu_us"] for each in alone),
        "cpu_us_2": both.details["cpu_us"],
        "lesser_2": both.details["lesser"],
        "machine_idle_2": both.details["machine_idle"],
    }
    return Result(both.value / one, details, both.errors + sum(each.errors for each in alone))


def _throughput(stage: Stage, places: Sequence[int]) -> Result:
    """Requests per second, kept connections. What the master does is not limited: it does nothing for a request."""
    main, *children = stage.pids()
    each = children or [main]  # HAProxy's workers are threads
    threads = [int(name) for pid in each for name in os.listdir(f"/proc/{pid}/task")]
    for thread, place in zip(threads, itertools.cycle(places), strict=False):
        os.sched_setaffinity(thread, {place})
    try:
        with limited(dict.fromkeys(each, SHARE * len(places) / len(each))):
            stage.wrk(1)
            used, before = stage.cpu_ns(), cpu.now()
            busy = [cpu.process_cpu_ns(pid) for pid in each]
            load, errors = stage.wrk(2)
            busy = [cpu.process_cpu_ns(pid) - so_far for pid, so_far in zip(each, busy, strict=True)]
            used, after = stage.cpu_ns() - used, cpu.now()
    except NoQuotaError as error:
        raise SitsOutError(str(error)) from error
    idle = 1 - before.busy_ns_until(after) / (after.at_ns - before.at_ns) / after.cpus
    # `lesser`: what the worker that did least did, ÷ what the busiest did.
    details = {"cpu_us": used / 1000 / load.requests, "machine_idle": idle, "lesser": min(busy) / max(busy)}
    return Result(load.requests * 1e6 / load.duration_us, details, errors)


def access_log(start: Starter) -> Result:
    """CPU µs that a JSON line adds, per request on a kept connection."""
    return _access_log(start, close=False)


def access_log_tcp(start: Starter) -> Result:
    """The same per connection: in tcp mode a line is about a connection."""
    return _access_log(start, close=True)


def _access_log(start: Starter, *, close: bool) -> Result:
    """Both stand ready and take turns, there and back: the difference is small, drift must not be part of it."""
    found: dict[bool, list[float]] = {False: [], True: []}
    errors = 0
    with start(plain=True) as off, start(plain=True, log=True) as on:
        for logs in (False, True, True, False):
            cost, wrong = _cost(on if logs else off, close=close)
            found[logs].append(cost)
            errors += wrong
    without, with_log = fmean(found[False]), fmean(found[True])
    return Result(with_log - without, {"off": without, "on": with_log}, errors)


def _cost(stage: Stage, *, close: bool) -> tuple[float, int]:
    before = stage.cpu_ns()
    load, errors = stage.wrk(2, close=close)
    time.sleep(0.3)  # the last lines
    return (stage.cpu_ns() - before) / 1000 / load.requests, errors


def reload(start: Starter) -> Result:
    """Requests that fail during five reloads under load, on kept connections."""
    return _reload(start, close=False)


def reload_tcp(start: Starter) -> Result:
    """The same with a connection for each request: a kept one stays with its old worker, whatever that does."""
    return _reload(start, close=True)


def _reload(start: Starter, *, close: bool) -> Result:
    """nginx and HAProxy replace their workers whatever the file says; lbproxy would do nothing, so its file changes."""
    number = signal.SIGUSR2 if start.contender.family == "haproxy" else signal.SIGHUP
    seen: list[tuple[Load, int] | LoadError] = []
    with start(plain=True, options=("-W",)) as stage:  # HAProxy's master, which is what reloads
        assert stage.process is not None
        file = stage.place.directory / f"{stage.process.name}.conf"
        text = file.read_text()

        def load() -> None:
            try:
                seen.append(stage.wrk(6, close=close))
            except LoadError as error:
                seen.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        for turn in range(5):
            time.sleep(1)
            file.write_text(text.replace("interval: 2s", f"interval: {3 + turn}s"))
            stage.process.popen.send_signal(number)
        thread.join(30)
    if not seen or isinstance(seen[0], LoadError):
        raise LoadError("wrk did not end" if not seen else str(seen[0]))
    counted, errors = seen[0]
    # What fails is this trial's result, and no error of the trial; wrong bytes are.
    return Result(counted.failed, {"requests": counted.requests, **counted.errors}, errors - counted.failed)

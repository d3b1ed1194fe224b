"""Trials about the contender's processes: two workers, the access log, a reload under load."""

from __future__ import annotations

import signal
import threading
import time
from statistics import fmean

from bench import cpu
from bench.load import Load, LoadError
from bench.quota import NoQuotaError, limited
from bench.trials.result import Result
from bench.trials.stage import Stage
from bench.trials.start import SitsOutError, Starter

SHARE = (
    0.25  # of a CPU, for each worker: then the load generator and the backends have room for two of them on two CPUs
)


def two_workers(start: Starter) -> Result:
    """Throughput with two workers ÷ throughput with one, when each of them may use a fifth of a CPU."""
    with start(plain=True) as stage:
        one = _throughput(stage, 1)
    with start(plain=True, workers=2) as stage:
        two = _throughput(stage, 2)
    details = {
        f"{name}_{workers}": found.details[name] for workers, found in ((1, one), (2, two)) for name in one.details
    }
    return Result(two.value / one.value, details | {"rate_1": one.value, "rate_2": two.value}, one.errors + two.errors)


def _throughput(stage: Stage, workers: int) -> Result:
    """Requests per second, kept connections. What the master does is not limited: it does nothing for a request."""
    main, *children = stage.pids()
    each = children or [main]  # HAProxy's workers are threads
    try:
        with limited(dict.fromkeys(each, SHARE * workers / len(each))):
            stage.wrk(1)
            used, before = stage.cpu_ns(), cpu.now()
            load, errors = stage.wrk(3 if stage.full else 2)
            used, after = stage.cpu_ns() - used, cpu.now()
    except NoQuotaError as error:
        raise SitsOutError(str(error)) from error
    idle = 1 - before.busy_ns_until(after) / (after.at_ns - before.at_ns) / after.cpus
    details = {"cpu_us": used / 1000 / load.requests, "machine_idle": idle}
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

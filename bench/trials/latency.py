"""Latency by the clock, at half of what nginx can do: the same absolute rate for everybody.

nginx's peak is taken first, in the same run and with wrk, a closed loop. Then the generator is tried without any
proxy: where it shares its CPU with the backends it may not carry half of that peak. The rate is then the greatest that
`direct` carries with a p99 of less than DIRECT_P99_US, and the result says what part of the peak that is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from bench.load import LoadError
from bench.machine import ROOT
from bench.trials.generator import PATIENCE, Seen
from bench.trials.result import Result
from bench.trials.stage import Stage
from bench.trials.start import Rate, Starter

CONNECTIONS = 64
DIRECT_P99_US = 2000
STEP = 0.85
STEPS = 8  # 0.85 ** 8 is a quarter


def latency(start: Starter) -> Result:
    """The 99th percentile in µs, open loop."""
    mode = start.contender.mode
    if mode not in start.ground.rates:
        start.ground.rates[mode] = _find_rate(start)
    known = start.ground.rates[mode]
    with start(plain=True) as stage:
        generate(stage.port, known.rate, 1)
        before = stage.cpu_ns()
        seconds = 4 if start.full else 2
        seen = generate(stage.port, known.rate, seconds)
        used = stage.cpu_ns() - before
    details = {
        "p50_us": seen.p50_us,
        "p999_us": seen.p999_us,
        "max_us": seen.max_us,
        "rate": known.rate,
        "nginx_peak": known.nginx_peak,
        "generator_late": seen.late,
        "cpu_us_per_request": used / 1000 / (known.rate * seconds),
    }
    return Result(seen.p99_us, details, seen.wrong)


def _find_rate(start: Starter) -> Rate:
    with start.beside("nginx")(plain=True) as stage:
        peak = median(_peak(stage) for _ in range(3))
    rate = peak / 2
    with start.beside("direct")(plain=True) as stage:
        for _ in range(STEPS):
            # The best of three: what else the machine does can only make it look less than it carries.
            if min(generate(stage.port, round(rate), 1).p99_us for _ in range(3)) < DIRECT_P99_US:
                break
            rate *= STEP
    found = round(rate, -2)
    mode = start.contender.mode.value
    said = f"latency-{mode}: {found:,.0f} requests a second are sent, {found / peak:.0%} of nginx's peak of {peak:,.0f}"
    if found / peak < 0.49:
        said += f"; at half of it the generator's own p99, without any proxy, is over {DIRECT_P99_US / 1000:g} ms"
    start.ground.notes.append(said)
    return Rate(round(found), peak)


def _peak(stage: Stage) -> float:
    load, _errors = stage.wrk(2)
    return load.requests * 1e6 / load.duration_us


def generate(port: int, rate: int, seconds: int) -> Seen:
    """What generator.py saw. Raises LoadError."""
    argv = [sys.executable, "-m", "bench.trials.generator", *map(str, (port, rate, rate * seconds, CONNECTIONS))]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=seconds + 3 * PATIENCE, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        raise LoadError("the generator did not end") from None
    if done.returncode:
        raise LoadError(f"the generator failed: {done.stderr[-500:]}")
    return Seen(**json.loads(done.stdout))

"""Trials about the contender's processes: two workers, the access log, a reload under load."""

from __future__ import annotations

import signal
import subprocess
import threading
import time

from bench.load import REPORT, Load, LoadError, load_from
from bench.trials.result import Result
from bench.trials.stage import Stage


def throughput(stage: Stage) -> Result:
    """Requests per second that wrk gets, kept connections; run with one worker and with two."""
    before = stage.cpu_ns()
    load = _wrk(stage.port, 4 if stage.full else 2)
    used = stage.cpu_ns() - before
    rate = load.requests * 1e6 / load.duration_us
    return Result(rate, {"cpu_us": used / 1000 / load.requests}, errors=load.failed)


def cost(stage: Stage) -> Result:
    """CPU µs per request, kept connections; run with the access log on and off."""
    before = stage.cpu_ns()
    load = _wrk(stage.port, 4 if stage.full else 2)
    time.sleep(0.3)  # the last lines
    return Result((stage.cpu_ns() - before) / 1000 / load.requests, {"requests": load.requests}, errors=load.failed)


def reload(stage: Stage) -> Result:
    """Errors and closed connections seen by a client during five reloads under load.

    nginx and HAProxy replace their workers whatever the file says; lbproxy would do nothing, so its file changes.
    """
    assert stage.process is not None
    name = stage.process.name
    number = signal.SIGUSR2 if name.startswith("haproxy") else signal.SIGHUP
    file = stage.place.directory / f"{name}.conf"
    text = file.read_text()
    seconds = 6
    loads: list[Load] = []
    thread = threading.Thread(target=lambda: loads.append(_wrk(stage.port, seconds)))
    thread.start()
    for turn in range(5):
        time.sleep(1)
        if name.startswith("lbproxy"):
            file.write_text(text.replace("interval: 2s", f"interval: {3 + turn}s"))
        stage.process.popen.send_signal(number)
    thread.join(seconds + 20)
    if not loads:
        raise LoadError("wrk did not end")
    return Result(loads[0].failed, {"requests": loads[0].requests, **loads[0].errors})


def _wrk(port: int, seconds: int) -> Load:
    argv = ["wrk", "--threads", "1", "--connections", "64", "--duration", f"{seconds}s", "--timeout", "5s"]
    argv += ["--script", str(REPORT), f"http://127.0.0.1:{port}/"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 20, check=False)
    except subprocess.TimeoutExpired:
        raise LoadError("wrk did not end") from None
    return load_from(done.stdout + done.stderr)

"""A trial's books: what everything that it started has used is counted once, whoever waited for whom."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from bench import cpu
from bench.process import Process
from bench.trials.stage import Ledger, _close_books

BURN = "import time\nwhile time.process_time() < 0.2: pass\n"
# It burns, and so does a child that it waits for, and one that it leaves to the kill at the end.
FAMILY = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
left = subprocess.Popen([sys.executable, "-c", {BURN + "time.sleep(60)"!r}])
{BURN}
print("done", flush=True)
time.sleep(60)
"""


def test_everything_is_counted_once(tmp_path: Path) -> None:
    own = cpu.own_ns()
    us = time.process_time_ns()
    first, second = (
        Process.start(name, [sys.executable, "-c", FAMILY], tmp_path, os.sched_getaffinity(0)) for name in "ab"
    )
    try:
        deadline = time.monotonic() + 30
        while any(
            "done" not in each.log.read_text() or cpu.process_cpu_ns(each.pids()[-1]) < 200_000_000
            for each in (first, second)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        expected = cpu.spent_ns(first.pids()) + cpu.spent_ns(second.pids())
    finally:
        ledger = Ledger()
        _close_books(ledger, first, second)
    counted = cpu.own_ns() - own + ledger.spent_ns - (time.process_time_ns() - us)
    assert expected > 1_100_000_000  # six times 0.2 s; the ended children are counted in ticks
    assert counted == pytest.approx(expected, abs=60_000_000)  # a few ticks, and what ending takes

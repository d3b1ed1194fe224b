"""CPU accounting: the text of /proc, and the clocks of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from bench import cpu

STAT = """\
cpu  100 5 50 1000 20 1 4 30 0 0
cpu0 50 5 25 500 10 1 2 15 0 0
cpu1 50 0 25 500 10 0 2 15 0 0
intr 12345
ctxt 99
"""


def test_idle_is_idle_and_iowait() -> None:
    moment = cpu.moment_from(STAT, 7)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert moment == cpu.Moment(at_ns=7, idle_ns=1020 * tick_ns, steal_ns=30 * tick_ns, cpus=2)


def test_busy_is_what_is_not_idle_on_all_cpus() -> None:
    before = cpu.Moment(0, 0, 0, cpus=2)
    assert before.busy_ns_until(cpu.Moment(1000, 500, 0, cpus=2)) == 1500
    assert before.busy_ns_until(cpu.Moment(1000, 2100, 0, cpus=2)) == 0  # ticks may run ahead of the clock


@pytest.mark.parametrize("name", ["nginx", "a b", "x) R 99 (", "("])
def test_the_parent_is_found_behind_any_name(name: str) -> None:
    assert cpu.parent_in_stat(f"4711 ({name}) S 42 4711 4711 0 -1") == 42


def test_ended_children_are_counted_in_ticks() -> None:
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    stat = "4711 (a) b) S 42 4711 4711 0 -1 4194560 1 2 3 4 7 8 20 3 20 0 1 0 99"
    assert cpu.reaped_in_stat(stat) == 23 * tick_ns


def test_a_process_pays_for_all_its_threads_and_children_count_as_family() -> None:
    child = "import threading; t = threading.Thread(target=lambda: sum(range(2_000_000))); t.start(); t.join()"
    parent = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child + '; input()'!r}]); p.wait()"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE) as process:
        try:
            family = _family_of_two(process.pid)
            assert family[0] == process.pid
            deadline = time.monotonic() + 10
            while cpu.process_cpu_ns(family[1]) < 20_000_000:  # the thread's work; it has ended when input() waits
                assert time.monotonic() < deadline
            assert cpu.family_cpu_ns(family) >= cpu.process_cpu_ns(family[1])
        finally:
            process.communicate(b"\n", timeout=10)


def _family_of_two(pid: int) -> tuple[int, ...]:
    deadline = time.monotonic() + 10
    while len(family := cpu.family_of(pid)) < 2:
        assert time.monotonic() < deadline
    return family


def test_who_is_gone_has_no_clock_and_no_family() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    with pytest.raises(ProcessLookupError):
        cpu.process_cpu_ns(process.pid)
    with pytest.raises(ProcessLookupError):
        cpu.family_of(process.pid)

"""A process that may use a fifth of a CPU uses a fifth of a CPU."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import cpu
from bench.quota import NoQuotaError, limited

SPIN = [sys.executable, "-c", "while True: pass"]


def test_a_process_gets_its_share_and_is_free_again() -> None:
    with subprocess.Popen(SPIN) as process:
        try:
            try:
                with limited({process.pid: 0.2}):
                    groups = Path(f"/proc/{process.pid}/cgroup").read_text()
                    before, began = cpu.process_cpu_ns(process.pid), time.monotonic_ns()
                    while (took := time.monotonic_ns() - began) < 500_000_000:
                        time.sleep(0.05)
                    used = cpu.process_cpu_ns(process.pid) - before
            except NoQuotaError as error:
                pytest.skip(str(error))
            assert f"lbproxy-bench-{process.pid}" in groups
            assert used < 0.3 * took  # less than its share is the machine's fault, more would be the quota's
            assert f"lbproxy-bench-{process.pid}" not in Path(f"/proc/{process.pid}/cgroup").read_text()
        finally:
            process.kill()


def test_who_is_gone_cannot_be_limited_and_no_group_stays() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(10)
    with pytest.raises(NoQuotaError), limited({process.pid: 0.2}):
        pass
    assert not list(Path("/sys/fs/cgroup").glob(f"**/lbproxy-bench-{process.pid}"))

"""A worker's slice of the CPU, as the kernel has it."""

from __future__ import annotations

import os
import platform
import re
import struct
import subprocess
import sys

import pytest

from lbproxy.dataplane import scheduling

# In a process of its own, because it is for good; the last line is what sched_getattr(2) says.
SCRIPT = """
import ctypes, os
from lbproxy.dataplane.scheduling import ask_for_short_slices
{before}
print(ask_for_short_slices())
said = ctypes.create_string_buffer(48)
assert ctypes.CDLL(None).syscall({number}, 0, said, 48, 0) == 0
print(said.raw.hex())
"""
GETATTR = {"x86_64": 315, "aarch64": 275, "riscv64": 275, "ppc64le": 356, "s390x": 346}


def asked(before: str = "") -> tuple[bool, int, int, int]:
    """What it says, and the policy, the niceness and the slice (ns) that the kernel has then."""
    script = SCRIPT.format(before=before, number=GETATTR[platform.machine()])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    answer, said = done.stdout.split()
    _size, policy, _flags, nice, _priority, runtime, _deadline, _period = struct.unpack(
        scheduling._ATTRIBUTES, bytes.fromhex(said)
    )
    return answer == "True", policy, nice, runtime


def test_a_worker_has_short_slices() -> None:
    granted, policy, nice, runtime = asked()
    assert (granted, policy, nice) == (True, os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, 0))
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    assert release is not None
    if (int(release[1]), int(release[2])) >= (6, 12):
        assert runtime == scheduling.SLICE_NS


def test_a_nice_worker_stays_as_nice() -> None:
    assert asked("os.nice(3)")[:3] == (True, os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, 0) + 3)


def test_an_operators_policy_stays() -> None:
    granted, policy, _nice, _slice = asked("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))")
    assert (granted, policy) == (False, os.SCHED_BATCH)


def test_on_another_machine_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert not scheduling.ask_for_short_slices()

"""CPU time of processes and of the machine, in nanoseconds.

A process's time is read from its CPU clock (clock_getcpuclockid(3)): that is the scheduler's own count in nanoseconds,
over all threads, the ended ones too. utime and stime of /proc/PID/stat are the same count in ticks of 10 ms, too coarse
for runs of a second. Without CONFIG_IRQ_TIME_ACCOUNTING, as on most kernels, the network's softirq work is charged to
the process on whose back it runs: on loopback that is the sender, so a proxy pays for what it sends.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CPUCLOCK_SCHED = 2  # include/linux/posix-timers_types.h
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def process_cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process since it started. Raises ProcessLookupError: it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError as error:
        raise ProcessLookupError(f"no process {pid}") from error


def family_cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of several processes together."""
    return sum(process_cpu_ns(pid) for pid in pids)


def spent_ns(pids: Iterable[int]) -> int:
    """The same and that of the children which they have had and waited for, which is counted in ticks of 10 ms."""
    return sum(process_cpu_ns(pid) + reaped_in_stat(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)


def own_ns() -> int:
    """CPU time of this process and of every child that it has waited for."""
    return time.process_time_ns() + children_ns()


def children_ns() -> int:
    """CPU time of every child that this process has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((children.ru_utime + children.ru_stime) * 1e9)


def family_of(pid: int) -> tuple[int, ...]:
    """A process and all that descend from it, now. Raises ProcessLookupError."""
    parents = _parents()
    if pid not in parents:
        raise ProcessLookupError(f"no process {pid}")
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return tuple(found)


def _parents() -> dict[int, int]:
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = parent_in_stat(Path("/proc", entry, "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended since the listing
    return parents


def parent_in_stat(stat: str) -> int:
    """The parent's pid in a line of /proc/PID/stat, whose second field may hold spaces and brackets."""
    return int(stat.rpartition(")")[2].split()[1])


def reaped_in_stat(stat: str) -> int:
    """CPU time, in nanoseconds, of a process's ended children in a line of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) * _TICK_NS


@dataclass(frozen=True, slots=True)
class Moment:
    """What the machine's CPUs have done since it started."""

    at_ns: int
    idle_ns: int  # of all CPUs together; exact, unlike the kernel's sampling of what a busy CPU is busy with
    steal_ns: int  # taken by the hypervisor
    cpus: int

    def busy_ns_until(self, later: Moment) -> int:
        """CPU time that anything at all has used, and that the hypervisor has taken, in between."""
        return max(0, (later.at_ns - self.at_ns) * self.cpus - (later.idle_ns - self.idle_ns))


def now() -> Moment:
    """Read /proc/stat."""
    return moment_from(Path("/proc/stat").read_text(), time.monotonic_ns())


def moment_from(stat: str, at_ns: int) -> Moment:
    """A Moment from the text of /proc/stat; see proc_stat(5) for the columns."""
    lines = [line.split() for line in stat.splitlines() if line.startswith("cpu")]
    total = [int(field) for field in lines[0][1:]]
    return Moment(at_ns, (total[3] + total[4]) * _TICK_NS, total[7] * _TICK_NS, len(lines) - 1)

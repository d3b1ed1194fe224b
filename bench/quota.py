"""A part of a CPU for a process, by the kernel's cgroups: then it is full long before the load generator is.

Both hierarchies are known, the older one (cpu.cfs_quota_us) and the unified one (cpu.max). Whoever may not make groups,
as in most containers, cannot have this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

PERIOD_US = 10_000  # the shortest of which a tenth may be given: nobody is kept waiting for long, nothing piles up


class NoQuotaError(Exception):
    """Groups cannot be made here."""


@contextmanager
def limited(shares: Mapping[int, float]) -> Iterator[None]:
    """Processes, by number, may use so much of a CPU inside; 0.1 is a tenth. Raises NoQuotaError."""
    parent, write_limit = _hierarchy()
    groups: list[Path] = []
    try:
        for pid, share in shares.items():
            group = parent / f"lbproxy-bench-{pid}"
            try:
                group.mkdir()
                groups.append(group)
                write_limit(group, round(PERIOD_US * share))
                (group / "cgroup.procs").write_text(str(pid))
            except OSError as error:
                raise NoQuotaError(f"no group for CPU quotas: {error}") from error
        yield
    finally:
        for group in groups:
            for member in (group / "cgroup.procs").read_text().split():
                with suppress(OSError):  # it has ended
                    (parent / "cgroup.procs").write_text(member)
            group.rmdir()


def _hierarchy() -> tuple[Path, Callable[[Path, int], None]]:
    """Where groups are made, and how they are limited. Raises NoQuotaError."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for _device, place, kind, options, *_ in mounts:
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(place), _limit_v1
    for _device, place, kind, *_ in mounts:
        if kind == "cgroup2" and "cpu" in (Path(place) / "cgroup.controllers").read_text().split():
            with suppress(OSError):
                (Path(place) / "cgroup.subtree_control").write_text("+cpu")
                return Path(place), _limit_v2
    raise NoQuotaError("CPU quotas need cgroups, and the right to make them")


def _limit_v1(group: Path, quota_us: int) -> None:
    (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
    (group / "cpu.cfs_quota_us").write_text(str(quota_us))


def _limit_v2(group: Path, quota_us: int) -> None:
    (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")

"""lbproxy itself: the control plane and its workers."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress

from prometheus_client.core import Metric

from lbproxy import __version__
from lbproxy.admin.metrics.families import counters, cumulative, gauges, histograms
from lbproxy.admin.metrics.scrape import Labels, Scrape
from lbproxy.core.config import connections_within

_PROCESS = ["process"]
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def process(scrape: Scrape) -> Iterator[Metric]:
    stats = scrape.stats
    yield gauges("lbproxy_info", "The version, as a label.", ["version"], [([__version__], 1)])
    for name, text, number in (
        ("start_time_seconds", "When it started.", scrape.started_at),
        ("config_last_reload_successful", "0 after a refused lb.yaml.", float(not scrape.config_is_refused)),
        ("config_last_reload_success_timestamp_seconds", "Of the file in force.", scrape.loaded_at),
        ("draining", "1 after SIGTERM.", float(scrape.draining)),
        ("workers", "Workers that accept.", sum(worker.ready for worker in scrape.workers)),
    ):
        yield gauges(f"lbproxy_{name}", text, [], [([], number)])
    dropped = stats.log_dropped + scrape.log_dropped
    for name, text, count in (
        ("worker_restarts", "Workers that died and were replaced.", scrape.restarts),
        ("accept_pauses", "Accepting paused: no descriptors.", stats.accept_paused),
        ("internal_errors", "Bugs met.", stats.internal_errors),
        ("log_lines_dropped", "Log lines lost to a slow reader.", dropped),
    ):
        yield counters(f"lbproxy_{name}", text, [], [([], count)])
    yield histograms(
        "lbproxy_worker_answer_seconds",
        "How long workers take to answer the control plane.",
        [],
        [([], cumulative(scrape.answers.buckets), scrape.answers.seconds)],
    )
    yield from _processes(scrape)


def fd_share() -> int:
    """Connections of one worker that the limit of descriptors allows. Workers inherit it."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections_within(soft)


def _processes(scrape: Scrape) -> Iterator[Metric]:
    # By number and not by pid: a replaced worker continues the series.
    pids = [(["control"], os.getpid()), *(([f"worker{one.number}"], one.pid) for one in scrape.workers)]

    def of_each(look: Callable[[int], float]) -> Iterator[tuple[Labels, float]]:
        """Those that are still there."""
        for labels, pid in pids:
            with suppress(OSError, ValueError, IndexError):
                yield labels, look(pid)

    yield gauges("lbproxy_process_resident_memory_bytes", "RSS by process.", _PROCESS, of_each(_rss))
    yield counters("lbproxy_process_cpu_seconds", "CPU time by process.", _PROCESS, of_each(_cpu))
    yield gauges("lbproxy_process_open_fds", "Open descriptors by process.", _PROCESS, of_each(_open_fds))
    yield gauges("lbproxy_process_max_fds", "Descriptors that it may have.", _PROCESS, of_each(_max_fds))


def _rss(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _open_fds(pid: int) -> float:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _max_fds(pid: int) -> float:
    soft, _hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    return soft

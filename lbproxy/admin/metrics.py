"""/metrics: the counters of all workers in Prometheus' text format.

The set follows HAProxy's exporter and k3s's load balancer. Labels are listener, pool, backend and small fixed sets, so
the number of series depends on lb.yaml alone. docs/metrics.md describes each.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from lbproxy import __version__
from lbproxy.admin.status import spread_of
from lbproxy.admin.view import BackendView, View, WorkerView
from lbproxy.core.health import Health
from lbproxy.core.histogram import BOUNDS, dense
from lbproxy.core.leases import BOUNDS as LEASE_BOUNDS
from lbproxy.core.leases import LeaseReport
from lbproxy.core.messages import DIALS, BackendStats, ListenerStats, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Counters = ListenerStats | BackendStats

_BACKEND = ["pool", "backend"]
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


async def metrics(view: View) -> bytes:
    """The page."""
    stats = await view.counters()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(view, stats))
    return generate_latest(registry)


class _Snapshot:
    """A collector of numbers that have been gathered already."""

    def __init__(self, view: View, stats: Stats) -> None:
        self._view = view
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        yield from self._listeners()
        yield from self._backends()
        yield from self._process()

    def _listeners(self) -> Iterator[Metric]:
        rows = [
            (listener.name, counters)
            for listener, counters in zip(self._view.config.listeners, self._stats.listeners, strict=True)
        ]

        labelled = [([name], counters) for name, counters in rows]
        simple = partial(_counted, "lbproxy_listener", ["listener"], labelled)
        yield simple(GaugeMetricFamily, "current_connections", "Client connections open.", "active")
        yield simple(CounterMetricFamily, "accepted", "Client connections accepted.", "accepted")
        yield simple(CounterMetricFamily, "refused", "Client connections above max_connections, reset.", "refused")
        yield simple(CounterMetricFamily, "requests", "Requests finished (http mode).", "requests")
        yield simple(
            CounterMetricFamily, "watches_resumed", "Watches that went on at another backend.", "watches_resumed"
        )
        yield simple(
            CounterMetricFamily,
            "watches_not_resumed",
            "Watches that lost their backend and ended, because no other went on.",
            "watches_not_resumed",
        )
        yield simple(
            CounterMetricFamily,
            "relists_avoided",
            "Watches resumed that would have been listed again.",
            "relists_avoided",
        )
        yield simple(
            CounterMetricFamily, "watches_ended", "Watches ended cleanly at a backend not ready.", "watches_ended"
        )
        yield simple(
            CounterMetricFamily,
            "watches_rebalanced",
            "Watches moved so that backends have as many.",
            "watches_rebalanced",
        )
        yield simple(CounterMetricFamily, "bytes_in", "Bytes from clients.", "bytes_in")
        yield simple(CounterMetricFamily, "bytes_out", "Bytes to clients.", "bytes_out")
        yield _responses("lbproxy_listener", ["listener"], labelled)
        yield _terminations(
            "lbproxy_listener", ["listener"], [(labels, counters.terminations) for labels, counters in labelled]
        )

    def _backends(self) -> Iterator[Metric]:
        views = self._view.pools()
        rows = [
            (pool.name, backend, counters)
            for pool in self._view.config.pools
            for backend, counters in zip(views[pool.name], self._stats.pools[pool.name], strict=True)
        ]

        labelled = [([pool, backend.config.address.text], counters) for pool, backend, counters in rows]
        simple = partial(_counted, "lbproxy_backend", _BACKEND, labelled)
        yield simple(
            GaugeMetricFamily, "current_connections", "Connections (tcp) or requests in flight (http).", "active"
        )
        yield simple(GaugeMetricFamily, "long_streams", "Watches, logs -f, exec, upgraded connections.", "long_streams")
        yield simple(GaugeMetricFamily, "idle_connections", "Kept-alive connections (http mode).", "idle")
        yield simple(CounterMetricFamily, "connections", "Connections or requests given to the backend.", "total")
        yield simple(CounterMetricFamily, "failures", "Dials and answers that failed in live traffic.", "failed")
        yield _retries(labelled)
        yield simple(CounterMetricFamily, "reused_connections", "Requests on a kept-alive connection.", "reused")
        yield simple(CounterMetricFamily, "bytes_in", "Bytes to the backend.", "bytes_in")
        yield simple(CounterMetricFamily, "bytes_out", "Bytes from the backend.", "bytes_out")
        yield from _answers(labelled)
        yield _terminations("lbproxy_backend", _BACKEND, [(labels, counters.ends) for labels, counters in labelled])
        yield _dials(labelled)
        yield from _health([(pool, backend) for pool, backend, _counters in rows])
        none = CounterMetricFamily("lbproxy_pool_no_backend", "Picks that found no backend.", labels=["pool"])
        for pool_config in self._view.config.pools:
            none.add_metric([pool_config.name], self._stats.no_backend.get(pool_config.name, 0))
        yield none
        now = GaugeMetricFamily("lbproxy_pool_fail_open", "1 while nobody is ready: the living.", labels=["pool"])
        times = CounterMetricFamily("lbproxy_pool_fail_opens", "Times that this has begun.", labels=["pool"])
        for name, (fails_open, count) in self._view.fail_opens().items():
            now.add_metric([name], float(fails_open))
            times.add_metric([name], count)
        yield from (now, times)
        yield from self._streams()
        yield _lease_gaps(self._stats.leases)
        yield _lease_waits(self._stats.leases)
        yield GaugeMetricFamily("lbproxy_leases", "Leases seen being renewed.", value=self._stats.leases.known)

    def _streams(self) -> Iterator[Metric]:
        labels = [*_BACKEND, "kind"]
        count = GaugeMetricFamily("lbproxy_backend_streams", "Long streams by kind (http mode).", labels=labels)
        oldest = GaugeMetricFamily("lbproxy_backend_oldest_stream_seconds", "Age of the oldest.", labels=labels)
        uneven = GaugeMetricFamily(
            "lbproxy_pool_stream_spread", "Unevenness of long streams; 0: none.", labels=["pool"]
        )
        views = self._view.pools()
        for pool in self._view.config.pools:
            backends = self._stats.streams.get(pool.name, [])
            for config, kinds in zip(pool.backends, backends, strict=False):
                for kind, streams in kinds.items():
                    count.add_metric([pool.name, config.address.text, kind], streams.count)
                    oldest.add_metric([pool.name, config.address.text, kind], streams.oldest)
            uneven.add_metric([pool.name], spread_of(views[pool.name], self._stats.pools[pool.name]))
        yield from (count, oldest, uneven)

    def _process(self) -> Iterator[Metric]:
        view, stats = self._view, self._stats
        info = GaugeMetricFamily("lbproxy_info", "The version, as a label.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily("lbproxy_start_time_seconds", "When it started.", value=view.started_at)
        yield GaugeMetricFamily(
            "lbproxy_config_last_reload_successful",
            "0 after a refused lb.yaml.",
            value=float(view.config_error is None),
        )
        yield GaugeMetricFamily(
            "lbproxy_config_last_reload_success_timestamp_seconds", "Of the file in force.", value=view.loaded_at
        )
        yield GaugeMetricFamily("lbproxy_draining", "1 after SIGTERM.", value=float(view.draining))
        yield GaugeMetricFamily("lbproxy_workers", "Workers that accept.", value=sum(w.ready for w in view.workers()))
        yield CounterMetricFamily(
            "lbproxy_worker_restarts", "Workers that died and were replaced.", value=view.restarts()
        )
        yield CounterMetricFamily(
            "lbproxy_accept_pauses", "Accepting paused: no descriptors.", value=stats.accept_paused
        )
        yield CounterMetricFamily("lbproxy_internal_errors", "Bugs met.", value=stats.internal_errors)
        dropped = stats.log_dropped + view.log_dropped()
        yield CounterMetricFamily("lbproxy_log_lines_dropped", "Log lines lost to a slow reader.", value=dropped)
        yield from _processes(view.workers())


def _counted(
    prefix: str,
    labels: list[str],
    rows: Iterable[tuple[list[str], Counters]],
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    field: str,
) -> Metric:
    """One field of the counters, for every row."""
    family = kind(f"{prefix}_{name}", text, labels=labels)
    for values, counters in rows:
        family.add_metric(values, getattr(counters, field))
    return family


def _responses(prefix: str, labels: list[str], rows: Iterable[tuple[list[str], Counters]]) -> Metric:
    family = CounterMetricFamily(f"{prefix}_responses", "Responses by class.", labels=[*labels, "class"])
    for values, counters in rows:
        for number in range(1, 6):
            family.add_metric([*values, f"{number}xx"], counters.responses.get(number, 0))
    return family


def _answers(rows: list[tuple[list[str], BackendStats]]) -> Iterator[Metric]:
    yield _responses("lbproxy_backend", _BACKEND, rows)
    heads = HistogramMetricFamily(
        "lbproxy_backend_response_seconds", "From a request to the head of its response.", labels=_BACKEND
    )
    for labels, counters in rows:
        heads.add_metric(labels, _cumulative(BOUNDS, dense(counters.heads)), counters.head_seconds)
    yield heads


def _dials(rows: list[tuple[list[str], BackendStats]]) -> Metric:
    """Those that succeeded always, the others' buckets where there have been some."""
    family = HistogramMetricFamily(
        "lbproxy_backend_dial_seconds", "Connects to the backend, by result.", labels=[*_BACKEND, "result"]
    )
    for labels, counters in rows:
        for result in DIALS:
            if result == "ok" or result in counters.dial_seconds:
                buckets = dense({bucket: count for (how, bucket), count in counters.dials.items() if how == result})
                seconds = counters.dial_seconds.get(result, 0.0)
                family.add_metric([*labels, result], _cumulative(BOUNDS, buckets), seconds)
    return family


def _retries(rows: list[tuple[list[str], BackendStats]]) -> Metric:
    family = CounterMetricFamily(
        "lbproxy_backend_retries",
        "Requests sent again, and dials that went on, by reason.",
        labels=[*_BACKEND, "reason"],
    )
    for labels, counters in rows:
        for reason, count in sorted(counters.retries.items()):
            family.add_metric([*labels, reason], count)
    return family


def _lease_waits(leases: LeaseReport) -> Metric:
    family = GaugeMetricFamily("lbproxy_lease_waiting_seconds", "Longest wait for a renewal now.", labels=["group"])
    for group, seconds in leases.waits().items():
        family.add_metric([group], seconds)
    return family


def _lease_gaps(leases: LeaseReport) -> Metric:
    family = HistogramMetricFamily("lbproxy_lease_renewal_gap_seconds", "Time between two renewals of a lease.")
    family.add_metric([], _cumulative(LEASE_BOUNDS, leases.buckets), leases.gap_seconds)
    return family


def _cumulative(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    """Buckets as Prometheus has them: each with all that is in the ones before it."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))


def _terminations(prefix: str, labels: list[str], rows: Iterable[tuple[list[str], dict[str, int]]]) -> Metric:
    family = CounterMetricFamily(
        f"{prefix}_terminations",
        "Connections (tcp) and requests (http) by how they ended: HAProxy's two letters.",
        labels=[*labels, "code"],
    )
    for values, ends in rows:
        for code, count in sorted(ends.items()):
            family.add_metric([*values, code], count)
    return family


def _health(rows: list[tuple[str, BackendView]]) -> Iterator[Metric]:
    health = GaugeMetricFamily("lbproxy_backend_health", "1 for what checks say.", labels=[*_BACKEND, "health"])
    eligible = GaugeMetricFamily("lbproxy_backend_eligible", "1 if it gets new connections.", labels=_BACKEND)
    weight = GaugeMetricFamily("lbproxy_backend_weight", "Configured weight.", labels=_BACKEND)
    latency = GaugeMetricFamily("lbproxy_backend_check_seconds", "Duration of the last check.", labels=_BACKEND)
    for pool, backend in rows:
        labels = [pool, backend.config.address.text]
        for each in Health:
            health.add_metric([*labels, each.value], float(backend.health is each))
        eligible.add_metric(labels, float(backend.eligible))
        weight.add_metric(labels, backend.config.weight)
        if backend.last is not None:
            latency.add_metric(labels, backend.last.times.total)
    yield from (health, eligible, weight, latency)


def _processes(workers: list[WorkerView]) -> Iterator[Metric]:
    memory = GaugeMetricFamily("lbproxy_process_resident_memory_bytes", "RSS by process.", labels=["process"])
    cpu = CounterMetricFamily("lbproxy_process_cpu_seconds", "CPU time by process.", labels=["process"])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu.add_metric(["control"], usage.ru_utime + usage.ru_stime)
    memory.add_metric(["control"], _rss("self"))
    # By number and not by pid: a replaced worker continues the series.
    for worker in workers:
        memory.add_metric([f"worker{worker.number}"], _rss(str(worker.pid)))
        cpu.add_metric([f"worker{worker.number}"], _cpu(worker.pid))
    fds = GaugeMetricFamily("lbproxy_process_open_fds", "Open descriptors of the control plane.")
    fds.add_metric([], len(os.listdir("/proc/self/fd")))
    yield from (memory, cpu, fds)


def _rss(pid: str) -> float:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0.0


def _cpu(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS

"""What operators and checks say of each backend."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from lbproxy.admin.metrics.families import BACKEND, counters, cumulative, each, gauges, histograms
from lbproxy.admin.metrics.scrape import Scrape
from lbproxy.core.config import BackendState
from lbproxy.core.health import Health


def health(scrape: Scrape) -> Iterator[Metric]:
    rows = [(labels, view) for labels, view, _stats in scrape.each_backend()]
    yield gauges(
        "lbproxy_backend_health",
        "1 for what checks say.",
        [*BACKEND, "health"],
        (([*labels, one.value], float(view.health is one)) for labels, view in rows for one in Health),
    )
    yield gauges(
        "lbproxy_backend_state",
        "1 for what the operator says.",
        [*BACKEND, "state"],
        (([*labels, one.value], float(view.config.state is one)) for labels, view in rows for one in BackendState),
    )
    yield gauges(
        "lbproxy_backend_eligible",
        "1 if it gets new connections.",
        BACKEND,
        each(rows, lambda view: float(view.eligible)),
    )
    yield gauges("lbproxy_backend_weight", "Weight in force.", BACKEND, each(rows, lambda view: view.config.weight))
    yield gauges(
        "lbproxy_backend_max_connections",
        "Limit of connections (tcp) or requests in flight (http); 0: none.",
        BACKEND,
        each(rows, lambda view: view.config.max_connections),
    )
    yield counters(
        "lbproxy_backend_health_changes",
        "Times that checks have changed their mind.",
        BACKEND,
        each(rows, lambda view: view.checks.changes),
    )
    yield gauges(
        "lbproxy_backend_health_change_timestamp_seconds",
        "When they did last.",
        BACKEND,
        each(rows, lambda view: view.since),
    )
    yield counters(
        "lbproxy_backend_downtime_seconds",
        "Time that it was not ready or down.",
        BACKEND,
        each(rows, lambda view: view.downtime),
    )
    yield from _checks(scrape)


def _checks(scrape: Scrape) -> Iterator[Metric]:
    rows = [(labels, view) for labels, view, _stats in scrape.each_backend()]
    checked = [(labels, view.last) for labels, view in rows if view.last is not None]
    yield counters("lbproxy_backend_checks", "Checks made.", BACKEND, each(rows, lambda view: view.checks.made))
    yield counters(
        "lbproxy_backend_check_failures",
        "Checks that did not say up, by the stage in which they ended and what they said.",
        [*BACKEND, "stage", "verdict"],
        (
            ([*labels, stage.value, verdict.value], count)
            for labels, view in rows
            for (stage, verdict), count in list(view.checks.failures.items())
        ),
    )
    yield gauges(
        "lbproxy_backend_check_status_code",
        "HTTP status of the last check; 0: there was none.",
        BACKEND,
        each(checked, lambda last: last.status or 0),
    )
    yield gauges(
        "lbproxy_backend_check_seconds",
        "Duration of the last check.",
        BACKEND,
        each(checked, lambda last: last.times.total),
    )
    yield histograms(
        "lbproxy_backend_check_stage_seconds",
        "Duration of each stage of checks.",
        [*BACKEND, "stage"],
        (
            ([*labels, stage.value], cumulative(times.buckets), times.seconds)
            for labels, view in rows
            for stage, times in view.checks.stages.items()
            if times.count
        ),
    )
    yield gauges(
        "lbproxy_backend_certificate_expiry_timestamp_seconds",
        "Until when the certificate is valid that the backend showed to the last check.",
        BACKEND,
        (
            (labels, last.result.certificate_expires)
            for labels, last in checked
            if last.result.certificate_expires is not None
        ),
    )

"""What traffic there is with each backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from lbproxy.admin.metrics.families import (
    BACKEND,
    Bucket,
    counters,
    cumulative,
    each,
    gauges,
    histograms,
    responses,
    terminations,
)
from lbproxy.admin.metrics.scrape import Labels, Scrape
from lbproxy.core.histogram import dense
from lbproxy.core.messages import DIALS, RETRIES, BackendStats

_Rows = list[tuple[Labels, BackendStats]]
_Column = tuple[str, str, Callable[[BackendStats], float]]

# Names without lbproxy_backend_ and _total.
_GAUGES: list[_Column] = [
    ("current_connections", "Connections (tcp) or requests in flight (http).", lambda one: one.active),
    ("long_streams", "Watches, logs -f, exec, upgraded connections.", lambda one: one.long_streams),
    ("idle_connections", "Kept-alive connections (http mode).", lambda one: one.idle),
]
_COUNTERS: list[_Column] = [
    ("connections", "Connections or requests given to the backend.", lambda one: one.total),
    ("failures", "Dials and answers that failed in live traffic.", lambda one: one.failed),
    ("reused_connections", "Requests on a kept-alive connection.", lambda one: one.reused),
    ("bytes_in", "Bytes to the backend.", lambda one: one.bytes_in),
    ("bytes_out", "Bytes from the backend.", lambda one: one.bytes_out),
]


def backends(scrape: Scrape) -> Iterator[Metric]:
    rows = [(labels, stats) for labels, _view, stats in scrape.each_backend()]
    for name, text, number in _GAUGES:
        yield gauges(f"lbproxy_backend_{name}", text, BACKEND, each(rows, number))
    for name, text, number in _COUNTERS:
        yield counters(f"lbproxy_backend_{name}", text, BACKEND, each(rows, number))
    yield counters(
        "lbproxy_backend_retries",
        "Requests sent again, and dials that went on, by reason.",
        [*BACKEND, "reason"],
        (([*labels, reason], one.retries.get(reason, 0)) for labels, one in rows for reason in RETRIES),
    )
    yield responses("lbproxy_backend", BACKEND, rows)
    yield terminations("lbproxy_backend", BACKEND, [(labels, one.ends) for labels, one in rows])
    yield histograms(
        "lbproxy_backend_response_seconds",
        "From a request to the head of its response.",
        BACKEND,
        ((labels, cumulative(dense(one.heads)), one.head_seconds) for labels, one in rows),
    )
    yield histograms(
        "lbproxy_backend_dial_seconds", "Connects to the backend, by result.", [*BACKEND, "result"], _dials(rows)
    )
    yield from _streams(scrape)


def _dials(rows: _Rows) -> Iterator[tuple[Labels, list[Bucket], float]]:
    """Those that succeeded always; others where there have been some."""
    for labels, one in rows:
        for result in DIALS:
            if result == "ok" or result in one.dial_seconds:
                buckets = dense({bucket: count for (how, bucket), count in one.dials.items() if how == result})
                yield [*labels, result], cumulative(buckets), one.dial_seconds.get(result, 0.0)


def _streams(scrape: Scrape) -> Iterator[Metric]:
    streams = [
        ([pool.name, config.address.text, kind], one)
        for pool in scrape.config.pools
        for config, kinds in zip(pool.backends, scrape.stats.streams.get(pool.name, []), strict=False)
        for kind, one in kinds.items()
    ]
    labels = [*BACKEND, "kind"]
    yield gauges(
        "lbproxy_backend_streams",
        "Long streams by kind (http mode).",
        labels,
        each(streams, lambda one: one.count),
    )
    yield gauges(
        "lbproxy_backend_oldest_stream_seconds",
        "Age of the oldest.",
        labels,
        each(streams, lambda one: one.oldest),
    )

"""Where clients connect."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from lbproxy.admin.metrics.families import counters, each, gauges, responses, terminations
from lbproxy.admin.metrics.process import fd_share
from lbproxy.admin.metrics.scrape import Scrape
from lbproxy.core.messages import ListenerStats
from lbproxy.core.termination import Termination

_LISTENER = ["listener"]
_NONE = {code.value: 0 for code in Termination}  # an increase from nothing at all is not seen by Prometheus

# Names without lbproxy_listener_ and _total.
_COUNTERS: list[tuple[str, str, Callable[[ListenerStats], float]]] = [
    ("accepted", "Client connections accepted.", lambda one: one.accepted),
    ("refused", "Client connections above max_connections, reset.", lambda one: one.refused),
    ("requests", "Requests finished (http mode).", lambda one: one.requests),
    ("watches_resumed", "Watches that went on at another backend.", lambda one: one.watches_resumed),
    (
        "watches_not_resumed",
        "Watches that lost their backend and ended, because no other went on.",
        lambda one: one.watches_not_resumed,
    ),
    ("relists_avoided", "Watches resumed that would have been listed again.", lambda one: one.relists_avoided),
    ("watches_ended", "Watches ended cleanly at a backend not ready.", lambda one: one.watches_ended),
    ("watches_rebalanced", "Watches moved so that backends have as many.", lambda one: one.watches_rebalanced),
    ("bytes_in", "Bytes from clients.", lambda one: one.bytes_in),
    ("bytes_out", "Bytes to clients.", lambda one: one.bytes_out),
]


def listeners(scrape: Scrape) -> Iterator[Metric]:
    rows = list(scrape.each_listener())
    yield gauges(
        "lbproxy_listener_current_connections",
        "Client connections open.",
        _LISTENER,
        each(rows, lambda one: one.active),
    )
    yield gauges(
        "lbproxy_listener_max_connections",
        "Client connections that it takes.",
        _LISTENER,
        (([one.name], one.max_connections or fd_share() * scrape.config.workers) for one in scrape.config.listeners),
    )
    for name, text, number in _COUNTERS:
        yield counters(f"lbproxy_listener_{name}", text, _LISTENER, each(rows, number))
    yield responses("lbproxy_listener", _LISTENER, rows)
    yield terminations("lbproxy_listener", _LISTENER, [(labels, _NONE | one.terminations) for labels, one in rows])

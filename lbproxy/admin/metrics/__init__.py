"""/metrics: the counters of all workers in Prometheus' text format.

The set follows HAProxy's exporter and k3s's load balancer. Labels are listener, pool, backend and small fixed sets, so
the number of series depends on lb.yaml alone. docs/metrics.md describes each.

What there is to say is asked for in one go; it is put into words in a thread, because a thousand backends make a page
of 100,000 lines, and health checks are not to wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from lbproxy.admin.metrics.backends import backends
from lbproxy.admin.metrics.health import health
from lbproxy.admin.metrics.listeners import listeners
from lbproxy.admin.metrics.pools import pools
from lbproxy.admin.metrics.process import process
from lbproxy.admin.metrics.scrape import Scrape
from lbproxy.admin.view import View

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(view: View) -> bytes:
    """The page."""
    scrape = Scrape.of(view, await view.counters())
    return await trio.to_thread.run_sync(_page, scrape)


def _page(scrape: Scrape) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(scrape))
    return generate_latest(registry)


class _Collector:
    """What has been gathered already, as prometheus_client asks for it."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterable[Metric]:
        for part in (listeners, backends, health, pools, process):
            yield from part(self._scrape)

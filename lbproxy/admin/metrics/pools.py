"""Each pool as a whole, and what of Kubernetes is seen on its way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import Metric

from lbproxy.admin.metrics.families import counters, cumulative, gauges, histograms
from lbproxy.admin.metrics.scrape import Labels, Scrape
from lbproxy.admin.status import spread_of
from lbproxy.core.certificate import CertificateError, expiries
from lbproxy.core.leases import BOUNDS

_POOL = ["pool"]


def pools(scrape: Scrape) -> Iterator[Metric]:
    names = [pool.name for pool in scrape.config.pools]
    tiers = [
        ([name, tier], [view for view in scrape.backends[name] if view.config.backup is (tier == "backup")])
        for name in names
        for tier in ("primary", "backup")
    ]
    yield gauges(
        "lbproxy_pool_backends",
        "Backends that lb.yaml has.",
        [*_POOL, "tier"],
        ((labels, len(views)) for labels, views in tiers),
    )
    yield gauges(
        "lbproxy_pool_eligible_backends",
        "Backends that get new connections.",
        [*_POOL, "tier"],
        ((labels, sum(view.eligible for view in views)) for labels, views in tiers),
    )
    yield counters(
        "lbproxy_pool_no_backend",
        "Picks that found no backend.",
        _POOL,
        (([name], scrape.stats.no_backend.get(name, 0)) for name in names),
    )
    yield gauges(
        "lbproxy_pool_fail_open",
        "1 while nobody is ready: the living.",
        _POOL,
        (([name], float(now)) for name, (now, _times) in scrape.fail_opens.items()),
    )
    yield counters(
        "lbproxy_pool_fail_opens",
        "Times that this has begun.",
        _POOL,
        (([name], times) for name, (_now, times) in scrape.fail_opens.items()),
    )
    yield gauges(
        "lbproxy_pool_stream_spread",
        "Unevenness of long streams; 0: none.",
        _POOL,
        (([name], spread_of(scrape.backends[name], scrape.stats.pools[name])) for name in names),
    )
    yield gauges(
        "lbproxy_check_certificate_expiry_timestamp_seconds",
        "Until when the files of health_check are valid.",
        [*_POOL, "file"],
        _certificates(scrape),
    )
    leases = scrape.stats.leases
    yield histograms(
        "lbproxy_lease_renewal_gap_seconds",
        "Time between two renewals of a lease.",
        [],
        [([], cumulative(leases.buckets, BOUNDS), leases.gap_seconds)],
    )
    yield gauges(
        "lbproxy_lease_waiting_seconds",
        "Longest wait for a renewal now.",
        ["group"],
        (([group], seconds) for group, seconds in leases.waits().items()),
    )
    yield gauges(
        "lbproxy_leader_waiting_seconds",
        "Time since the last renewal of a leader's lease.",
        ["lease"],
        (([lease], seconds) for lease, seconds in leases.leaders().items()),
    )
    yield gauges("lbproxy_leases", "Leases seen being renewed.", [], [([], leases.known)])


def _certificates(scrape: Scrape) -> Iterator[tuple[Labels, float]]:
    """As the files are now, since checks follow them. One that cannot be read is what checks complain of.

    The first of client_cert is the client's own, and CAs follow it, which live longer. Of the CAs in ca_file the last
    to end counts: where there are several, the old one is on its way out.
    """
    for pool in scrape.config.pools:
        check = pool.health_check
        with suppress(OSError, CertificateError):
            if check.client_cert is not None:
                yield [pool.name, "client_cert"], expiries(Path(check.client_cert).read_bytes())[0]
        with suppress(OSError, CertificateError):
            if check.ca_file is not None:
                yield [pool.name, "ca_file"], max(expiries(Path(check.ca_file).read_bytes()))

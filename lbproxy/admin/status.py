"""The JSON of /status. The names of its fields are an interface: fields are added, never renamed."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from lbproxy import __version__
from lbproxy.admin.view import BackendView, View
from lbproxy.core.messages import AGES, BackendStats, Stats, StreamStats
from lbproxy.core.rebalancing import spread

# Long streams younger than a minute, than ten, than an hour, and the others.
AGE_NAMES = [*(f"under_{bound / 60:g}m" for bound in AGES), "older"]


async def status(view: View) -> dict[str, Any]:
    """Everything an operator or a script may want to know at one look."""
    return status_of(view, await view.counters())


def status_of(view: View, stats: Stats) -> dict[str, Any]:
    """The same with counters at hand, in the shape of the view's configuration."""
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started_at": stamp(view.started_at),
        "uptime_s": round(time.time() - view.started_at, 1),
        "draining": view.draining,
        "upgraded_from": view.upgraded_from or None,
        "upgrade_error": view.upgrade_error,
        "handing_over": view.handing_over,
        "config": {
            "path": view.config_path,
            "sha256": view.config_sha256,
            "loaded_at": stamp(view.loaded_at),
            "error": view.config_error,
        },
        "workers": [
            {"pid": worker.pid, "ready": worker.ready, "connections": sum(one.active for one in worker.stats.listeners)}
            for worker in view.workers()
        ],
        "listeners": [
            {
                "name": listener.name,
                "bind": [address.text for address in listener.bind],
                "mode": listener.mode.value,
                "pool": listener.pool,
                "accepted": counters.accepted,
                "active": counters.active,
                "refused": counters.refused,
                "requests": counters.requests,
                "watches": {
                    "resumed": counters.watches_resumed,
                    "not_resumed": counters.watches_not_resumed,
                    "ended": counters.watches_ended,
                    "rebalanced": counters.watches_rebalanced,
                    "relists_avoided": counters.relists_avoided,
                },
            }
            for listener, counters in zip(view.config.listeners, stats.listeners, strict=True)
        ],
        "pools": [
            {
                "name": pool.name,
                "balance": pool.balance.algorithm.value,
                "fail_open": view.fail_opens()[pool.name][0],
                "spread": round(spread_of(view.pools()[pool.name], stats.pools[pool.name]), 3),
                "backends": [
                    _backend(backend, counters, streams, view.is_set_at_runtime(pool.name, backend.config.address.text))
                    for backend, counters, streams in zip(
                        view.pools()[pool.name],
                        stats.pools[pool.name],
                        stats.streams.get(pool.name) or [{} for _ in pool.backends],
                        strict=True,
                    )
                ],
            }
            for pool in view.config.pools
        ],
        "leases": {
            "known": stats.leases.known,
            "renewals": stats.leases.renewals,
            "shown": [
                {
                    "name": lease.name,
                    "since_s": round(lease.since, 1),
                    "gap_s": round(lease.gap, 2),
                    "longest_gap_s": round(lease.longest, 2),
                }
                for lease in stats.leases.shown
            ],
        },
    }


def spread_of(backends: list[BackendView], stats: list[BackendStats]) -> float:
    """How uneven the long streams of a pool are: see core/rebalancing.py."""
    worths = [backend.config.weight if backend.eligible and not backend.config.backup else 0 for backend in backends]
    return spread([one.long_streams for one in stats], worths)


def _backend(
    backend: BackendView, stats: BackendStats, streams: dict[str, StreamStats], set_at_runtime: bool
) -> dict[str, Any]:
    last = backend.last
    return {
        "address": backend.config.address.text,
        "weight": backend.config.weight,
        "backup": backend.config.backup,
        "health": backend.health.value,
        "reason": backend.reason,
        "since": stamp(backend.since),
        "state": backend.config.state.value,
        "set_at_runtime": set_at_runtime,
        "eligible": backend.eligible,
        "active": stats.active,
        "total": stats.total,
        "failed": stats.failed,
        "long_streams": stats.long_streams,
        "streams": {
            kind: {
                "count": one.count,
                "oldest_s": round(one.oldest, 1),
                "ages": dict(zip(AGE_NAMES, one.ages, strict=True)),
            }
            for kind, one in sorted(streams.items())
        },
        "retries": stats.retries,
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "check": None
        if last is None
        else {
            "at": stamp(last.at),
            "ok": last.ok,
            "status": last.status,
            "latency_ms": round(last.times.total * 1000, 1),
            "error": None if last.ok else last.result.reason,
        },
        "checks": [
            {
                "at": stamp(check.at),
                "verdict": check.verdict.value,
                "status": check.status,
                "latency_ms": round(check.times.total * 1000, 1),
            }
            for check in backend.recent
        ],
    }


def stamp(when: float) -> str:
    """Seconds since the epoch as ISO 8601."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

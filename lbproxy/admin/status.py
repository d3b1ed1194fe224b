"""The JSON of /status. The names of its fields are an interface: fields are added, never renamed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from lbproxy import __version__
from lbproxy.admin.view import BackendView, View
from lbproxy.core.messages import BackendStats


async def status(view: View) -> dict[str, Any]:
    """Everything an operator or a script may want to know at one look."""
    stats = await view.counters()
    return {
        "version": __version__,
        "uptime_s": round(time.time() - view.started_at, 1),
        "draining": view.draining,
        "config": {
            "path": view.config_path,
            "sha256": view.config_sha256,
            "loaded_at": _stamp(view.loaded_at),
            "error": None,
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
            }
            for listener, counters in zip(view.config.listeners, stats.listeners, strict=True)
        ],
        "pools": [
            {
                "name": pool.name,
                "balance": pool.balance.algorithm.value,
                "backends": [
                    _backend(backend, counters)
                    for backend, counters in zip(view.pools()[pool.name], stats.pools[pool.name], strict=True)
                ],
            }
            for pool in view.config.pools
        ],
    }


def _backend(backend: BackendView, stats: BackendStats) -> dict[str, Any]:
    last = backend.last
    return {
        "address": backend.config.address.text,
        "weight": backend.config.weight,
        "backup": backend.config.backup,
        "health": backend.health.value,
        "reason": backend.reason,
        "since": _stamp(backend.since),
        "state": backend.config.state.value,
        "eligible": backend.eligible,
        "active": stats.active,
        "total": stats.total,
        "failed": stats.failed,
        "long_streams": stats.long_streams,
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "check": None
        if last is None
        else {
            "at": _stamp(last.at),
            "ok": last.ok,
            "status": last.status,
            "latency_ms": round(last.times.total * 1000, 1),
            "error": None if last.ok else last.result.reason,
        },
    }


def _stamp(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""Answers of /status, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

NOW = 1_800_000_000.0
Json = dict[str, Any]


def stamp(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def backend(address: str = "10.0.1.10:6443", health: str = "up", **more: Any) -> Json:
    return {
        "address": address,
        "weight": 1,
        "backup": False,
        "health": health,
        "reason": "GET /readyz answered 200",
        "since": stamp(NOW - 7200),
        "state": "ready",
        "set_at_runtime": False,
        "eligible": health in ("up", "unknown"),
        "active": 0,
        "total": 0,
        "failed": 0,
        "long_streams": 0,
        "streams": {},
        "retries": {},
        "bytes_in": 0,
        "bytes_out": 0,
        "check": None,
        "checks": [{"at": stamp(NOW), "verdict": health, "status": 200, "latency_ms": 2.0}],
    } | more


def streams(count: int, oldest: float = 60.0) -> Json:
    ages = {"under_1m": 0, "under_10m": count, "under_60m": 0, "older": 0}
    return {"count": count, "oldest_s": oldest, "ages": ages}


def pool(name: str, *backends: Json, **more: Any) -> Json:
    return {
        "name": name,
        "balance": "round_robin",
        "fail_open": False,
        "spread": 0.0,
        "backends": list(backends),
    } | more


def listener(name: str = "api", pool: str = "apiservers", **more: Any) -> Json:
    return {
        "name": name,
        "bind": ["0.0.0.0:6443"],
        "mode": "http",
        "pool": pool,
        "accepted": 0,
        "active": 0,
        "refused": 0,
        "requests": 0,
        "watches": {"resumed": 0, "not_resumed": 0, "ended": 0, "rebalanced": 0, "relists_avoided": 0},
    } | more


def lease(name: str, since: float, longest: float) -> Json:
    return {"name": name, "since_s": since, "gap_s": 2.0, "longest_gap_s": longest}


def answer(*pools: Json, **more: Any) -> Json:
    return {
        "version": "1.2.3",
        "uptime_s": 7200.0,
        "draining": False,
        "config": {"path": "/etc/lbproxy/lb.yaml", "sha256": "", "loaded_at": stamp(NOW - 7200), "error": None},
        "workers": [{"pid": 11, "ready": True, "connections": 3}],
        "listeners": [listener()],
        "pools": list(pools) or [pool("apiservers", backend())],
        "leases": {"known": 0, "renewals": 0, "shown": []},
    } | more

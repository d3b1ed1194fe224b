"""What the masters say was asked of them: their audit logs, which are written before a request is handled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.control_plane import MASTERS

if TYPE_CHECKING:
    from tests.cluster.chaos.plane import ChaosPlane

# By what a client calls itself, in the order in which they are looked for.
AGENTS = (
    ("cronjob-controller", ""),  # it lists every 10 s in any weather
    ("kubectl/v1.20", "kubectl-1.20"),
    ("kubectl/v1.37", "kubectl-1.37"),
    ("OpenAPI-Generator/", "kubernetes"),
    ("kr8s/", "kr8s"),
    ("httpx2", "lightkube"),
    ("kube-controller-manager/", "controller-manager"),
    ("kube-scheduler/", "scheduler"),
    ("herd/", "herd"),
)
CONTROLLERS = ("controller-manager", "scheduler")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request when it reached a master, or (code > 0) when it was answered."""

    at: float
    master: int
    client: str  # or "" for one that is none of ours
    verb: str  # get, list, watch, create, update, patch, delete
    resource: str
    namespace: str
    name: str
    code: int


def read(paths: list[Path], since: float, until: float) -> list[Asked]:
    """All entries between two moments, of all masters, by time."""
    found = [one for number, path in enumerate(paths) for one in _entries(number, path) if since <= one.at <= until]
    return sorted(found, key=lambda one: one.at)


def _entries(master: int, path: Path) -> Iterator[Asked]:
    if not path.exists():
        return
    with path.open() as lines:
        for line in lines:
            if line.endswith("}\n"):  # a killed master leaves half a line
                yield _entry(master, json.loads(line))


def _entry(master: int, raw: dict[str, object]) -> Asked:
    match raw:
        case {"stageTimestamp": str(at), "verb": str(verb), "stage": str(stage)}:
            target, agent = _mapping(raw.get("objectRef")), str(raw.get("userAgent", ""))
            status = _mapping(raw.get("responseStatus")) if stage == "ResponseComplete" else {}
            code = status.get("code", 0)
            return Asked(
                datetime.fromisoformat(at).timestamp(),
                master,
                next((name for mark, name in AGENTS if mark in agent), ""),
                verb,
                str(target.get("resource", "")),
                str(target.get("namespace", "")),
                str(target.get("name", "")),
                code if isinstance(code, int) else 0,
            )
    raise ValueError(f"not an audit event: {raw}")


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def renewals(asked: list[Asked], lease: str) -> list[Asked]:
    """When a lease was renewed, as the master saw it."""
    return [
        one
        for one in asked
        if one.verb == "update" and one.resource == "leases" and one.name == lease and 200 <= one.code < 300
    ]


def most_at_once(asked: list[Asked], seconds: float) -> int:
    """The largest number of watches and lists, whoever wanted them, that reached the masters in so much time."""
    opens = [one.at for one in asked if one.verb in ("watch", "list") and one.code == 0]
    most, first = 0, 0
    for last, at in enumerate(opens):
        while opens[first] < at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def busiest_master(plane: ChaosPlane) -> int:
    """The master whose loss hurts most: the one that the leading controller-manager renews its lease at."""
    paths = [plane.audit_log(number) for number in range(len(MASTERS))]
    leading = renewals(read(paths, 0.0, float("inf")), "kube-controller-manager")
    return leading[-1].master if leading else 0

"""Which resources the simulated apiserver serves, as one table: discovery, routing and `kubectl get` all read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lbproxy.demo.store import Json

Cell = str | int
ALL = ("pods", "services", "deployments", "replicasets", "daemonsets", "statefulsets")
"""What `kubectl get all` shows."""
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`, computed by the server (KEP-2146, "Table")."""

    name: str
    cell: Callable[[Json], Cell]
    type: str = "string"
    format: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    subresources: tuple[str, ...] = ()
    id: str = field(init=False)
    """`pods`, `deployments.apps`: the name under which the store keeps it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.plural}.{self.group}" if self.group else self.plural)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()


def at(document: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path of a JSON document, or `default` where any step is missing."""
    for step in path.split("."):
        if not isinstance(document, dict) or step not in document:
            return default
        document = document[step]
    return document


def _at(path: str, default: Cell = "<none>") -> Callable[[Json], Cell]:
    def cell(body: Json) -> Cell:
        value = at(body, path)
        return value if isinstance(value, str | int) else default

    return cell


def human_age(seconds: float) -> str:
    """As kubectl prints an age: 45s, 3m20s, 25m, 5h2m, 12d."""
    total = max(0, int(seconds))
    if total < 120:
        return f"{total}s"
    if total < 600:
        return f"{total // 60}m{total % 60}s" if total % 60 else f"{total // 60}m"
    if total < 3 * 3600:
        return f"{total // 60}m"
    if total < 8 * 3600:
        return f"{total // 3600}h{total % 3600 // 60}m"
    return f"{total // 3600}h" if total < 48 * 3600 else f"{total // 86400}d"


def age_of(body: Json) -> str:
    created = at(body, "metadata.creationTimestamp")
    if not isinstance(created, str):
        return "<unknown>"
    try:
        born = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return "<invalid>"
    return human_age((datetime.now(UTC) - born).total_seconds())


def _ready(body: Json) -> str:
    statuses = at(body, "status.containerStatuses", [])
    containers = len(at(body, "spec.containers", []))
    return f"{sum(1 for status in statuses if status.get('ready'))}/{containers}"


def _restarts(body: Json) -> int:
    return sum(int(status.get("restartCount", 0)) for status in at(body, "status.containerStatuses", []))


def _node_status(body: Json) -> str:
    ready = [c for c in at(body, "status.conditions", []) if c.get("type") == "Ready"]
    return "Ready" if ready and ready[0].get("status") == "True" else "NotReady"


def _replicas_ready(body: Json) -> str:
    return f"{at(body, 'status.readyReplicas', 0)}/{at(body, 'spec.replicas', 0)}"


def _data(body: Json) -> int:
    return len(body.get("data") or {})


NAME = Column("Name", _at("metadata.name"), format="name")
AGE = Column("Age", age_of)

RESOURCES: tuple[Resource, ...] = (
    Resource("", "v1", "Namespace", "namespaces", False, ("ns",), (NAME, Column("Status", _at("status.phase")), AGE)),
    Resource(
        "",
        "v1",
        "Node",
        "nodes",
        False,
        ("no",),
        (NAME, Column("Status", _node_status), AGE, Column("Version", _at("status.nodeInfo.kubeletVersion"))),
        ("status",),
    ),
    Resource(
        "",
        "v1",
        "Pod",
        "pods",
        True,
        ("po",),
        (
            NAME,
            Column("Ready", _ready),
            Column("Status", _at("status.phase")),
            Column("Restarts", _restarts, type="integer"),
            AGE,
        ),
        ("attach", "exec", "log", "portforward", "proxy", "status"),
    ),
    Resource("", "v1", "ConfigMap", "configmaps", True, ("cm",), (NAME, Column("Data", _data, type="integer"), AGE)),
    Resource(
        "",
        "v1",
        "Secret",
        "secrets",
        True,
        (),
        (NAME, Column("Type", _at("type")), Column("Data", _data, type="integer"), AGE),
    ),
    Resource(
        "",
        "v1",
        "Service",
        "services",
        True,
        ("svc",),
        (NAME, Column("Type", _at("spec.type")), Column("Cluster-IP", _at("spec.clusterIP")), AGE),
        ("proxy", "status"),
    ),
    Resource("", "v1", "Endpoints", "endpoints", True, ("ep",), (NAME, AGE)),
    Resource("", "v1", "ServiceAccount", "serviceaccounts", True, ("sa",), (NAME, AGE)),
    Resource(
        "",
        "v1",
        "Event",
        "events",
        True,
        ("ev",),
        (
            Column("Last Seen", age_of),
            Column("Type", _at("type")),
            Column("Reason", _at("reason")),
            Column("Object", lambda body: f"{at(body, 'involvedObject.kind')}/{at(body, 'involvedObject.name')}"),
            Column("Message", _at("message")),
        ),
    ),
    Resource(
        "apps",
        "v1",
        "Deployment",
        "deployments",
        True,
        ("deploy",),
        (NAME, Column("Ready", _replicas_ready), AGE),
        ("status",),
    ),
    Resource("apps", "v1", "ReplicaSet", "replicasets", True, ("rs",), (NAME, Column("Ready", _replicas_ready), AGE)),
    Resource("apps", "v1", "DaemonSet", "daemonsets", True, ("ds",), (NAME, AGE)),
    Resource(
        "apps", "v1", "StatefulSet", "statefulsets", True, ("sts",), (NAME, Column("Ready", _replicas_ready), AGE)
    ),
    Resource(
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        True,
        (),
        (NAME, Column("Holder", _at("spec.holderIdentity", "")), AGE),
    ),
)

BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in RESOURCES}
BY_ID = {resource.id: resource for resource in RESOURCES}


def group_versions() -> dict[str, tuple[Resource, ...]]:
    """`v1`, `apps/v1`, …: the resources of each."""
    versions: dict[str, tuple[Resource, ...]] = {}
    for resource in RESOURCES:
        versions[resource.api_version] = (*versions.get(resource.api_version, ()), resource)
    return versions


def table(resource: Resource, revision: int, bodies: list[Json], **list_metadata: Any) -> Json:
    """The `Table` that `kubectl get` asks for with `as=Table`."""
    columns = resource.columns or (NAME, AGE)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": str(revision), **list_metadata},
        "columnDefinitions": [
            {"name": c.name, "type": c.type, "format": c.format, "description": c.name, "priority": 0} for c in columns
        ],
        "rows": [
            {
                "cells": [column.cell(body) for column in columns],
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": body["metadata"],
                },
            }
            for body in bodies
        ],
    }

"""What the demo's cluster contains, and the small changes that give a watch something to show."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import trio

from lbproxy.demo.api import Commit, complete
from lbproxy.demo.resources import BY_ID
from lbproxy.demo.store import Json, Key, Store, Verb, Write, WriteRefusedError

NODES = ("node-1", "node-2", "node-3")
NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
BEAT = 2.0
"""Seconds between two changes."""


def furnish(store: Store) -> None:
    """Fill an empty store with a small cluster."""
    for write in _furniture():
        store.write(write)


def _furniture() -> Iterator[Write]:
    for namespace in NAMESPACES:
        yield _new("namespaces", "", namespace, {"status": {"phase": "Active"}})
    for node in NODES:
        conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        info = {"kubeletVersion": "v1.32.0"}
        yield _new("nodes", "", node, {"spec": {}, "status": {"conditions": conditions, "nodeInfo": info}})
        yield _new("leases.coordination.k8s.io", "kube-node-lease", node, {"spec": _lease_spec(node)})
    for name, node in zip(("web-1", "web-2", "web-3"), NODES, strict=True):
        yield _new("pods", "default", name, _pod("web", node))
    yield _new("pods", "kube-system", "coredns-1", _pod("coredns", NODES[0]))
    yield _new("deployments.apps", "default", "web", _deployment("web", 3))
    yield _new("services", "default", "kubernetes", {"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1"}})
    yield _new("configmaps", "default", "settings", {"data": {"colour": "blue"}})
    yield _new("configmaps", "kube-system", "heartbeat", {"data": {"beats": "0"}})


def _new(resource: str, namespace: str, name: str, body: Json) -> Write:
    return Write(
        Verb.CREATE, resource, (namespace, name), complete({**body}, BY_ID[resource], namespace=namespace, name=name)
    )


def _pod(app: str, node: str) -> Json:
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": f"registry.example/{app}:1"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0}],
        },
    }


def _deployment(app: str, replicas: int) -> Json:
    return {
        "metadata": {"labels": {"app": app}, "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": _pod(app, "")},
        "status": {
            "observedGeneration": 1,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": replicas,
            "availableReplicas": replicas,
        },
    }


def _lease_spec(holder: str) -> Json:
    renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": renewed}


async def live(store: Store, commit: Commit, *, interval: float = BEAT) -> None:
    """For ever: a node renews its lease, a counter in a ConfigMap goes up, and now and then a pod restarts."""
    beat = 0
    while True:
        await trio.sleep(interval)
        beat += 1
        node = NODES[beat % len(NODES)]
        await _change(
            store, commit, "leases.coordination.k8s.io", ("kube-node-lease", node), {"spec": _lease_spec(node)}
        )
        await _change(store, commit, "configmaps", ("kube-system", "heartbeat"), {"data": {"beats": str(beat)}})
        if beat % 3 == 0:
            restarted = [{"name": "main", "ready": True, "restartCount": beat // 3}]
            pod = store.get("pods", ("default", "web-2"))
            status = {**(pod.body["status"] if pod else {}), "containerStatuses": restarted}
            await _change(store, commit, "pods", ("default", "web-2"), {"status": status})


async def _change(store: Store, commit: Commit, resource: str, key: Key, changes: Json) -> None:
    """Change an object, unless somebody has deleted it: it is the user's cluster to play with."""
    stored = store.get(resource, key)
    if stored is None:
        return
    try:
        await commit(Write(Verb.UPDATE, resource, key, {**stored.body, **changes}, stored.revision))
    except WriteRefusedError:
        return  # somebody else was quicker; the next beat comes soon

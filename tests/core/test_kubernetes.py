"""Which requests are long streams, and what an answer of our own looks like."""

from __future__ import annotations

import json

import h11
import pytest

from lbproxy.core.kubernetes import is_collection, lease_name, status_response, stream_kind

LONG = [
    "/api/v1/pods?watch=true",
    "/api/v1/pods?watch=1",
    "/api/v1/pods?watch=True",
    "/api/v1/pods?watch",
    "/api/v1/pods?watch=",
    "/api/v1/pods?watch=yes",
    "/api/v1/namespaces/d/pods?resourceVersion=5&watch=true",
    "/api/v1/namespaces/d/pods?watch=true&watch=false",
    "/api/v1/namespaces?watch=1&allowWatchBookmarks=true",
    "/apis/apps/v1/deployments?watch=true",
    "/apis/apps/v1/namespaces/d/deployments?fieldSelector=metadata.name%3Dx&watch=true",
    "/api/v1/watch/pods",
    "/api/v1/watch/namespaces/d/pods",
    "/api/v1/watch/namespaces/d/pods/p",
    "/apis/apps/v1/watch/deployments",
    "/apis/coordination.k8s.io/v1/watch/namespaces/kube-system/leases/x",
    "/api/v1/namespaces/d/pods/p/exec?command=sh&stdin=true",
    "/api/v1/namespaces/d/pods/p/attach",
    "/api/v1/namespaces/d/pods/p/portforward",
    "/api/v1/namespaces/d/pods/p/portforward?ports=80",
    "/api/v1/namespaces/d/pods/p/proxy",
    "/api/v1/namespaces/d/pods/p/proxy/path/x",
    "/api/v1/namespaces/d/services/http:s:80/proxy/",
    "/api/v1/nodes/n/proxy/logs/",
    "/api/v1/namespaces/d/pods/p/log?follow=true",
    "/api/v1/namespaces/d/pods/p/log?container=c&follow=1&tailLines=5",
]

SHORT = [
    "/",
    "/version",
    "/healthz",
    "/readyz?verbose",
    "/api",
    "/api/v1",
    "/apis",
    "/apis/apps/v1",
    "/api/v1/pods",
    "/api/v1/pods?limit=500",
    "/api/v1/pods?watch=false",
    "/api/v1/pods?watch=0",
    "/api/v1/pods?watch=FALSE",
    "/api/v1/pods?watch=false&watch=true",
    "/api/v1/pods?xwatch=true",
    "/api/v1/pods?labelSelector=watch%3Dtrue",
    "/api/v1/namespaces/watch/pods",
    "/api/v1/namespaces/d/pods/watch",
    "/api/v1/namespaces/d/pods/exec",
    "/api/v1/namespaces/d/configmaps/proxy",
    "/api/v1/namespaces/exec/pods",
    "/api/v1/watch",
    "/api/v1/namespaces/d/pods/p/log",
    "/api/v1/namespaces/d/pods/p/log?follow=false",
    "/api/v1/namespaces/d/pods/p/log?tailLines=100",
    "/api/v1/namespaces/d/pods/p/status",
    "/api/v1/namespaces/d/pods/p/eviction",
    "/apis/apps/v1/namespaces/d/deployments/x/scale",
    "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
    "/openapi/v2?timeout=32s",
    "/metrics",
    "/api/v1/namespaces/d/pods/p?follow=true",
    "/watch/api/v1/pods",
]


@pytest.mark.parametrize("target", LONG)
def test_long_streams(target: str) -> None:
    assert stream_kind(target.encode())


@pytest.mark.parametrize("target", SHORT)
def test_ordinary_requests(target: str) -> None:
    assert not stream_kind(target.encode())


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/api/v1/pods?watch=true", "watch"),
        ("/api/v1/watch/pods", "watch"),
        ("/api/v1/namespaces/d/pods/p/exec?command=sh", "exec"),
        ("/api/v1/namespaces/d/pods/p/attach", "attach"),
        ("/api/v1/namespaces/d/pods/p/portforward", "portforward"),
        ("/api/v1/nodes/n/proxy/logs/", "proxy"),
        ("/api/v1/namespaces/d/pods/p/log?follow=true", "log"),
        ("/api/v1/namespaces/d/pods/p/log", ""),
    ],
)
def test_kinds(target: str, kind: str) -> None:
    assert stream_kind(target.encode()) == kind


@pytest.mark.parametrize(
    ("target", "collection"),
    [
        ("/api/v1/pods", True),
        ("/api/v1/pods?limit=500&continue=x", True),
        ("/api/v1/namespaces", True),
        ("/api/v1/namespaces/d/pods", True),
        ("/apis/apps/v1/deployments", True),
        ("/apis/apps/v1/namespaces/d/deployments?labelSelector=a", True),
        ("/api/v1/namespaces/d", False),
        ("/api/v1/namespaces/d/status", False),
        ("/api/v1/namespaces/d/finalize", False),
        ("/api/v1/nodes/n", False),
        ("/api/v1/namespaces/d/pods/p", False),
        ("/api/v1", False),
        ("/api/v1/", False),
        ("/apis", False),
        ("/apis/apps/v1", False),
        ("/readyz", False),
        ("/", False),
    ],
)
def test_collections(target: str, collection: bool) -> None:
    assert is_collection(target.encode()) is collection


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler", "kube-system/kube-scheduler"),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1?timeout=10s", "kube-node-lease/n1"),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", ""),
        ("/apis/coordination.k8s.io/v1/leases", ""),
        ("/apis/coordination.k8s.io/v1/namespaces/a/leases/b/status", ""),
        ("/apis/apps/v1/namespaces/a/leases/b", ""),
    ],
)
def test_leases(target: str, name: str) -> None:
    assert lease_name(target.encode()) == name


@pytest.mark.parametrize("code", [400, 405, 408, 413, 429, 431, 500, 501, 502, 503, 504, 505])
@pytest.mark.parametrize("not_sent", [False, True])
@pytest.mark.parametrize("close", [False, True])
def test_an_answer_of_our_own(code: int, not_sent: bool, close: bool) -> None:
    data = status_response(code, 'lbproxy: "quoted" reason', not_sent=not_sent, close=close)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    headers = dict(response.headers)
    assert response.status_code == code
    assert (b"retry-after" in headers) == (not_sent and code in (429, 503))
    assert (headers.get(b"connection") == b"close") == close
    body = client.next_event()
    assert isinstance(body, h11.Data)
    status = json.loads(bytes(body.data))
    assert (status["kind"], status["apiVersion"], status["code"]) == ("Status", "v1", code)
    assert ("details" in status) == (b"retry-after" in headers)
    assert isinstance(client.next_event(), h11.EndOfMessage)


def test_an_answer_to_head_has_no_body() -> None:
    data = status_response(503, "x", not_sent=True, close=False, head=True)
    assert data.endswith(b"\r\n\r\n")

"""Requests for watches: which they are, where they begin, and the same ones again."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.watch import Phase, WatchRequest, parse_watch_request

PODS = b"/api/v1/namespaces/default/pods"


@pytest.mark.parametrize(
    "target",
    [
        PODS + b"?watch=true",
        PODS + b"?watch=1",
        PODS + b"?watch=True&limit=500",
        PODS + b"?watch",
        PODS + b"?watch=",
        PODS + b"?w%61tch=%74rue",
        PODS + b"?watch=true&watch=false",
        b"/api/v1/pods?watch=1",
        b"/api/v1/namespaces?watch=1",
        b"/apis/apps/v1/deployments?watch=1",
        b"/apis/apps/v1/namespaces/a/deployments?watch=1&fieldSelector=metadata.name%3Dx",
        b"/api/v1/watch/pods",
        b"/api/v1/watch/namespaces/a/pods/b?watch=false",
        b"/apis/apps/v1/watch/namespaces/a/deployments",
    ],
)
def test_watches(target: bytes) -> None:
    assert parse_watch_request(target)


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"/",
        b"*",
        b"/healthz?watch=1",
        b"/api",
        b"/api/v1",
        b"/api/v1?watch=1",
        b"/api/v1/?watch=1",
        b"/apis/apps/v1?watch=1",
        b"/openapi/v2/x/y?watch=1",
        PODS,
        PODS + b"?watch=false",
        PODS + b"?watch=0",
        PODS + b"?watch=False",
        PODS + b"?watch=false&watch=true",
        PODS + b"?watcher=true&x=watch",
        PODS + b"?watch=true;resourceVersion=5",
        PODS + b"/a?watch=true",
        PODS + b"/a/log?watch=true",
        PODS + b"/a/proxy/api/v1/pods?watch=true",
        b"/api/v1/nodes/a?watch=true",
        b"/api/v1/namespaces/a?watch=true",
        b"/api/v1/watch",
        b"http://host/api/v1/pods?watch=1",
    ],
)
def test_what_is_no_watch(target: bytes) -> None:
    assert parse_watch_request(target) is None


@pytest.mark.parametrize(
    ("query", "phase", "version"),
    [
        (b"", Phase.UNORDERED, None),
        (b"&resourceVersion=", Phase.UNORDERED, None),
        (b"&resourceVersion=0", Phase.UNORDERED, None),
        (b"&resourceVersion=00&allowWatchBookmarks=true", Phase.UNORDERED, None),
        (b"&resourceVersion=7", Phase.ORDERED, b"7"),
        (b"&resourceVersion=7&resourceVersion=8", Phase.ORDERED, b"7"),
        (b"&resourceVersion=%37", Phase.ORDERED, b"7"),
        (b"&resourceVersion=a/7", Phase.ORDERED, None),
        (b"&resourceVersion=-7", Phase.ORDERED, None),
        (b"&resourceVersion=" + b"9" * 20, Phase.ORDERED, None),
        (b"&sendInitialEvents=true&allowWatchBookmarks=true", Phase.MARKED, None),
        (b"&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersion=7", Phase.MARKED, None),
        (b"&sendInitialEvents=1&allowWatchBookmarks=0&resourceVersion=7", Phase.UNORDERED, None),
        (b"&sendInitialEvents=true", Phase.UNORDERED, None),
        (b"&sendInitialEvents=false", Phase.ORDERED, None),
        (b"&sendInitialEvents=false&resourceVersion=0", Phase.ORDERED, None),
        (b"&sendInitialEvents=false&resourceVersion=7", Phase.ORDERED, b"7"),
    ],
)
def test_where_a_watch_begins(query: bytes, phase: Phase, version: bytes | None) -> None:
    request = parse_watch_request(PODS + b"?watch=true" + query)
    assert request is not None
    assert (request.phase, request.version) == (phase, version)


@pytest.mark.parametrize(
    ("query", "elapsed", "resumed"),
    [
        (b"?watch=true", 5, b"?resourceVersion=77&watch=true"),
        (b"?watch=true&resourceVersion=5", 5, b"?resourceVersion=77&watch=true"),
        (b"?resourceVersion=5&watch=true&resourceVersion=6", 5, b"?resourceVersion=77&watch=true"),
        (b"?resource%56ersion=5&watch=true", 5, b"?resourceVersion=77&watch=true"),
        (
            b"?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
            5,
            b"?resourceVersion=77&watch=true&allowWatchBookmarks=true",
        ),
        (b"?watch=true&timeoutSeconds=300", 0, b"?resourceVersion=77&watch=true&timeoutSeconds=300"),
        (b"?watch=true&timeoutSeconds=300", 10.4, b"?resourceVersion=77&watch=true&timeoutSeconds=290"),
        (b"?watch=true&timeoutSeconds=300", 299.5, b"?resourceVersion=77&watch=true&timeoutSeconds=1"),
        (b"?watch=true&timeoutSeconds=300", 400, b"?resourceVersion=77&watch=true&timeoutSeconds=1"),
        (b"?watch=true&timeoutSeconds=0", 400, b"?resourceVersion=77&watch=true&timeoutSeconds=0"),
        (
            b"?watch=1&labelSelector=a%3Db%2Cc&fieldSelector=x%21%3Dy&pretty",
            1,
            b"?resourceVersion=77&watch=1&labelSelector=a%3Db%2Cc&fieldSelector=x%21%3Dy&pretty",
        ),
    ],
)
def test_the_same_watch_from_a_later_version(query: bytes, elapsed: float, resumed: bytes) -> None:
    request = parse_watch_request(PODS + query)
    assert request is not None
    assert request.resumed_target(b"77", elapsed) == PODS + resumed


def test_the_old_form_is_resumed_in_the_old_form() -> None:
    request = parse_watch_request(b"/api/v1/watch/pods")
    assert request is not None
    assert request.resumed_target(b"7", 0) == b"/api/v1/watch/pods?resourceVersion=7"


names = st.sampled_from(
    [
        "watch",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
        "allowWatchBookmarks",
        "labelSelector",
        "x",
    ]
)
values = st.sampled_from(["", "0", "1", "true", "false", "12345", "a=b", "a b", "ü"]) | st.text(max_size=3)


@given(pairs=st.lists(st.tuples(names, values), max_size=8), elapsed=st.floats(0, 1000))
def test_resumed_targets_differ_only_in_where_they_begin(pairs: list[tuple[str, str]], elapsed: float) -> None:
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in [("watch", "1"), *pairs])
    request = parse_watch_request(PODS + b"?" + query.encode())
    assert request is not None
    resumed = request.resumed_target(b"9", elapsed)
    again = parse_watch_request(resumed)
    assert isinstance(again, WatchRequest)
    assert (again.phase, again.version, again.bookmarks) == (Phase.ORDERED, b"9", request.bookmarks)
    assert (again.timeout is None) == (request.timeout is None)
    moved = {"resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds"}
    before, after = (
        [pair for pair in parse_qsl(text, keep_blank_values=True) if pair[0] not in moved]
        for text in (query, resumed.partition(b"?")[2].decode())
    )
    assert before == after

"""JSON events, the quick reading against the certain one: json.loads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lbproxy.core.watch import MAX_EVENT, Phase
from lbproxy.core.watch.json_events import JsonStream, _quick
from lbproxy.core.watch.progress import INITIAL_END

Json = Any

# -- generators: objects that look like Kubernetes' and hide other versions and brackets everywhere ---------------

traps = st.sampled_from(
    [
        '"resourceVersion":"1"',
        '{"metadata":{"resourceVersion":"2"}}',
        ',"resourceVersion":"3"',
        '\\"resourceVersion\\":\\"4\\"',
        '"}{][',
        "\\",
        '\\"',
        "}}\n",
        '\n{"type":"ERROR","object":{}}\n',
        "\u2028é\x00",
        "resourceVersion",
        "metadata",
        "",
    ]
)
strings = traps | st.text(max_size=5)
versions = st.integers(1, 10**18).map(str)
keys = strings | st.sampled_from(["metadata", "resourceVersion", "type", "object", "uid", "data", "items", "rows"])
values: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings
    | versions,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
maps = st.dictionaries(keys, strings | versions, max_size=3)
names = st.sampled_from(["a", "kube-root-ca.crt"])


@st.composite
def metadata(draw: st.DrawFn) -> Json:
    """In the order of Go's struct."""
    data: Json = {"name": draw(names)}
    for key, strategy in (
        ("generateName", names),
        ("namespace", names),
        ("selfLink", strings),
        ("uid", names),
        ("resourceVersion", versions),
        ("generation", st.integers(0, 9)),
        ("labels", maps),
        ("annotations", maps),
        ("ownerReferences", st.lists(maps, max_size=2)),
        ("managedFields", st.lists(st.dictionaries(keys, values, max_size=3), max_size=2)),
        ("odd", values),
    ):
        if draw(st.booleans()) or key == "resourceVersion":
            data[key] = draw(strategy)
    return data


@st.composite
def objects(draw: st.DrawFn) -> Json:
    """As a struct, sorted as a custom resource, as a Table, or with nothing that is right."""
    body: Json = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": draw(metadata())}
    body.update(draw(st.dictionaries(keys.filter(lambda key: key not in ("kind", "metadata")), values, max_size=3)))
    shape = draw(st.sampled_from(["struct", "sorted", "table", "bare table", "shuffled", "wild"]))
    match shape:
        case "sorted":
            return json.loads(json.dumps(body, sort_keys=True))
        case "table" | "bare table":
            table: Json = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": []}
            if shape == "table":
                table["metadata"]["resourceVersion"] = body["metadata"]["resourceVersion"]
            return {**table, "rows": [{"cells": [draw(strings)], "object": body}]}
        case "shuffled":
            body["metadata"] = dict(draw(st.permutations(list(body["metadata"].items()))))
            return dict(draw(st.permutations(list(body.items()))))
        case "wild":
            return draw(st.dictionaries(keys, values, max_size=4))
    return body


kinds = st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"])


def encode(event: Json, *, spaces: bool = False, ascii_only: bool = False) -> bytes:
    separators = None if spaces else (",", ":")
    return json.dumps(event, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b"\n"


def version_of(body: Json) -> bytes | None:
    """What is to be found, in the plainest way."""
    places = [body.get("metadata")]
    if body.get("kind") == "Table" and isinstance(body.get("rows"), list):
        places += [row["object"].get("metadata") for row in body["rows"] if isinstance(row, dict) and "object" in row]
    for place in places:
        version = place.get("resourceVersion") if isinstance(place, dict) else None
        if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 20:
            return version.encode()
    return None


# -- properties ------------------------------------------------------------------------------------------------------


@given(kind=kinds, body=objects(), spaces=st.booleans(), ascii_only=st.booleans())
@example(
    "ADDED", {"metadata": {"annotations": {"resourceVersion": "1", "uid": "x"}, "resourceVersion": "2"}}, False, False
)
@example("ADDED", {"data": {"metadata": {"resourceVersion": "1"}}, "metadata": {"resourceVersion": "2"}}, False, False)
@example("ADDED", {"metadata": {"a": [[[{"resourceVersion": "1"}]]], "resourceVersion": "2"}}, False, False)
@example("ADDED", {"metadata": {"a": '","resourceVersion":"1"', "resourceVersion": "2"}}, False, False)
@example("ADDED", {"metadata": {"a\\": "", "resourceVersion": "2"}}, False, False)
def test_the_version_is_the_objects_own(kind: str, body: Json, spaces: bool, ascii_only: bool) -> None:
    line = encode({"type": kind, "object": body}, spaces=spaces, ascii_only=ascii_only)
    stream = JsonStream(Phase.ORDERED, None)
    assert stream.feed(line) is line
    assert stream.resume_from == version_of(body)
    assert (stream.events, stream.at_boundary) == (1, True)


@given(body=metadata(), sort=st.booleans())
def test_what_the_apiserver_writes_is_read_quickly(body: Json, sort: bool) -> None:
    """Structs, and custom resources without names before `metadata`."""
    event = {"kind": "Thing", "apiVersion": "v1", "metadata": body, "spec": {"metadata": {"resourceVersion": "1"}}}
    line = json.dumps(event, separators=(",", ":"), sort_keys=sort).encode("utf-8", "surrogatepass")
    found = _quick(b'{"type":"ADDED","object":' + line + b"}")
    assert found is None or found[2].decode() == body["resourceVersion"]
    if not any("\\" in json.dumps(key) for key in body):
        assert found is not None


@given(
    events=st.lists(st.tuples(kinds | st.just("ERROR"), versions), max_size=6),
    phase=st.sampled_from([Phase.UNORDERED, Phase.ORDERED, Phase.MARKED]),
    data=st.data(),
)
def test_any_split_is_the_same_as_none(events: list[tuple[str, str]], phase: Phase, data: st.DataObject) -> None:
    lines = [
        encode({"type": kind, "object": {"kind": "Pod", "metadata": {"resourceVersion": version, "name": "\n"}}})
        for kind, version in events
    ]
    body = b"".join(lines)
    whole = JsonStream(phase, None)
    assert whole.feed(body) == body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    pieces = JsonStream(phase, None)
    forwarded = b"".join(
        pieces.feed(body[start:end]) for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)
    )
    assert forwarded == body
    assert (pieces.phase, pieces.resume_from, pieces.events) == (whole.phase, whole.resume_from, whole.events)


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b'{"type":"ADDED"}\n',
        b'{"type":1,"object":{}}\n',
        b'{"type":"ADDED","object":[]}\n',
        b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"resourceVersion":"5"\n',
        b"HTTP/1.1 502 Bad Gateway\r\n",
        b"\x1f\x8b\x08\n",
        b"\xff\xfe\n",
        b'{"type":"ADDED","object":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n",
    ],
)
def test_what_is_no_event_is_passed_on_and_ends_all_hope(line: bytes) -> None:
    good = encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "5"}}})
    stream = JsonStream(Phase.ORDERED, b"1")
    assert stream.feed(good + line[:1]) == good + (line if line == b"\n" else b"")
    assert stream.feed(line[1:] + b"x") == (b"x" if line == b"\n" else line + b"x")
    assert (stream.resume_from, stream.at_boundary, stream.lost) == (None, False, True)
    assert stream.feed(good) == good
    assert (stream.resume_from, stream.can_end(9, 9)) == (None, False)
    with pytest.raises(ValueError, match="no version"):
        stream.resume()


def test_an_event_that_is_too_large_is_passed_on() -> None:
    begin = b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"5"},"data":"'
    stream = JsonStream(Phase.ORDERED, b"1")
    assert stream.feed(begin) == b""
    assert stream.feed(b"x" * (MAX_EVENT - len(begin))) == b""
    assert (stream.resume_from, stream.held) == (b"1", MAX_EVENT)
    assert len(stream.feed(b"x")) == MAX_EVENT + 1
    assert (stream.resume_from, stream.held, stream.lost) == (None, 0, True)
    at_once = JsonStream(Phase.ORDERED, b"1")
    large = b'{"' + b"x" * MAX_EVENT
    assert at_once.feed(large) is large
    assert at_once.lost


@pytest.mark.parametrize("padding", [MAX_EVENT // 2, MAX_EVENT - 200])
def test_a_large_event_is_held_until_it_is_whole(padding: int) -> None:
    event = encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "5"}, "data": "x" * padding}})
    stream = JsonStream(Phase.ORDERED, b"1")
    pieces = [event[at : at + 65536] for at in range(0, len(event), 65536)]
    assert [stream.feed(piece) for piece in pieces[:-1]] == [b""] * (len(pieces) - 1)
    assert stream.feed(pieces[-1] + b"{") == event
    assert (stream.resume_from, stream.held) == (b"5", 1)


def bookmark(version: str, annotations: Json = None, *, table: bool = False) -> bytes:
    body: Json = {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": version}}
    if annotations is not None:
        body["metadata"]["annotations"] = annotations
    if table:
        body = {"kind": "Table", "metadata": {"resourceVersion": version}, "rows": [{"cells": [], "object": body}]}
    return encode({"type": "BOOKMARK", "object": body})


@pytest.mark.parametrize("table", [False, True])
def test_a_watch_list_can_be_resumed_after_its_mark(table: bool) -> None:
    added = encode({"type": "ADDED", "object": {"kind": "Pod", "metadata": {"resourceVersion": "9"}}})
    trap = encode(
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "3", "annotations": {INITIAL_END: "true"}}}}
    )
    stream = JsonStream(Phase.MARKED, None)
    for line in (
        added,
        added.replace(b"ADDED", b"MODIFIED"),
        trap,
        bookmark("10", table=table),
        bookmark("10", {INITIAL_END: "false"}, table=table),
        bookmark("10", {"x": f'"{INITIAL_END}":"true"'}, table=table),
    ):
        assert stream.feed(line) is line
        assert (stream.phase, stream.resume_from, stream.can_end(99, 99)) == (Phase.MARKED, None, False)
    stream.feed(bookmark("12", {"a": "", INITIAL_END: "true"}, table=table))
    assert (stream.phase, stream.resume_from, stream.can_end(99, 0)) == (Phase.ORDERED, b"12", True)


def test_an_event_without_a_version_is_not_resumed_from_until_the_next() -> None:
    stream = JsonStream(Phase.ORDERED, b"5")
    stream.feed(encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "7/x"}}}))
    assert stream.resume_from is None
    stream.feed(encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "8"}}}))
    assert stream.resume_from == b"8"


def test_an_unread_event_does_not_outlive_the_next_ones() -> None:
    stream = JsonStream(Phase.ORDERED, b"5")
    stream.feed(encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "7/x"}}}))
    stream.feed(
        encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "8"}}})
        + encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "9"}}})
    )
    assert (stream.resume_from, stream.events) == (b"9", 3)

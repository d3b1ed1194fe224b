"""CBOR events: where they end, by the RFC's examples and at random, and what is read of them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.watch import MAX_EVENT, Phase
from lbproxy.core.watch.cbor_events import CborStream, _walk
from lbproxy.core.watch.progress import INITIAL_END
from tests.core.watch.cbor import SELF_DESCRIBED, encode, encode_event, head
from tests.core.watch.test_json_events import kinds, objects, version_of

# RFC 8949, appendix A: all that are of definite length.
EXAMPLES = """
00 01 0a 17 1818 1819 1864 1903e8 1a000f4240 1b000000e8d4a51000 1bffffffffffffffff c249010000000000000000
3bffffffffffffffff c349010000000000000000 20 29 3863 3903e7 f90000 f98000 f93c00 fb3ff199999999999a f93e00 f97bff
fa47c35000 fa7f7fffff fb7e37e43c8800759c f90001 f90400 f9c400 fbc010666666666666 f97c00 f97e00 f9fc00 fa7f800000
fb7ff0000000000000 f4 f5 f6 f7 f0 f8ff c074323031332d30332d32315432303a30343a30305a c11a514b67b0 c1fb41d452d9ec200000
d74401020304 d818456449455446 d82076687474703a2f2f7777772e6578616d706c652e636f6d 40 4401020304 60 6161 6449455446
62225c 62c3bc 63e6b0b4 64f0908591 80 83010203 8301820203820405
98190102030405060708090a0b0c0d0e0f101112131415161718181819 a0 a201020304 a26161016162820203 826161a161626163
a56161614161626142616361436164614461656145
"""


@pytest.mark.parametrize("example", EXAMPLES.split())
def test_the_end_of_an_item(example: str) -> None:
    item = bytes.fromhex(example)
    assert _walk(item + b"\x00", 0, len(item) + 1, 1) == (len(item), 0)
    for end in range(len(item)):
        at, missing = _walk(item, 0, end, 1)
        assert missing or at > end
        assert _walk(item, at, len(item), missing) == (len(item), 0)


@pytest.mark.parametrize(
    "example", ["5f42010243030405ff", "7fff", "9fff", "bf616101ff", "ff", "1c", "fc", "9b" + "ff" * 8]
)
def test_what_the_apiserver_does_not_write(example: str) -> None:
    stream = CborStream(Phase.ORDERED, b"1")
    data = bytes.fromhex(example)
    assert stream.feed(data) is data
    assert (stream.lost, stream.resume_from) == (True, None)


@given(kind=kinds, body=objects(), text=st.booleans(), seed=st.integers(0, 9), tags=st.integers(0, 2))
def test_the_version_is_the_objects_own(kind: str, body: Any, text: bool, seed: int, tags: int) -> None:
    event = [("type", kind), ("object", body), ("more", [body, None])]
    Random(seed).shuffle(event)
    data = SELF_DESCRIBED * tags + encode(dict(event), text=text)
    stream = CborStream(Phase.ORDERED, None)
    assert stream.feed(data) is data
    if body.get("kind") != "Table" or "resourceVersion" in body["metadata"]:
        assert stream.resume_from == version_of(body)
    assert (stream.events, stream.at_boundary, stream.lost) == (1, True, False)


@given(
    events=st.lists(st.tuples(kinds | st.just("ERROR"), objects()), max_size=4),
    phase=st.sampled_from([Phase.UNORDERED, Phase.ORDERED, Phase.MARKED]),
    cuts=st.lists(st.integers(0, 1000), max_size=8),
)
def test_any_split_is_the_same_as_none(events: list[tuple[str, Any]], phase: Phase, cuts: list[int]) -> None:
    data = b"".join(encode_event({"type": kind, "object": body}) for kind, body in events)
    whole, pieces = CborStream(phase, None), CborStream(phase, None)
    assert whole.feed(data) == data
    cuts = sorted(cuts)
    forwarded = [pieces.feed(data[start:end]) for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert b"".join(forwarded) == data
    assert (pieces.phase, pieces.resume_from, pieces.events) == (whole.phase, whole.resume_from, whole.events)


@given(data=st.binary(max_size=60), phase=st.sampled_from([Phase.UNORDERED, Phase.ORDERED, Phase.MARKED]))
def test_anything_is_passed_on_or_held(data: bytes, phase: Phase) -> None:
    stream = CborStream(phase, b"1")
    forwarded = stream.feed(data) + stream.feed(data)
    assert (data + data).startswith(forwarded)
    assert len(forwarded) + stream.held == 2 * len(data)
    assert stream.lost or stream.events or stream.held or not data


@pytest.mark.parametrize("item", [1, "x", [], {}, {"object": {}}, {"type": 1, "object": {}}])
def test_an_item_that_is_no_event(item: Any) -> None:
    stream = CborStream(Phase.ORDERED, b"1")
    data = encode(item)
    assert stream.feed(data) is data
    assert (stream.resume_from, stream.lost) == (None, True)


def test_an_event_that_is_too_large_is_passed_on() -> None:
    begin = head(5, 2) + encode("type") + encode("ADDED") + encode("object") + head(4, 3)
    stream = CborStream(Phase.ORDERED, b"1")
    large = begin + head(2, MAX_EVENT) + b"x" * (MAX_EVENT + 10)
    assert stream.feed(large) is large
    assert stream.lost
    stream = CborStream(Phase.ORDERED, b"1")
    larger = begin + head(2, MAX_EVENT + 1)
    assert stream.feed(larger) is larger
    assert stream.lost


@pytest.mark.parametrize("annotations", [{}, {INITIAL_END: "false"}, {"x": INITIAL_END}, {INITIAL_END: True}, None, []])
def test_a_bookmark_that_is_no_mark(annotations: Any) -> None:
    stream = CborStream(Phase.MARKED, None)
    metadata = {"annotations": annotations, "resourceVersion": "5"}
    stream.feed(encode_event({"type": "BOOKMARK", "object": {"metadata": metadata}}))
    assert (stream.phase, stream.resume_from) == (Phase.MARKED, None)
    marked = json.loads(json.dumps({"type": "BOOKMARK", "object": {"metadata": metadata}}))
    marked["object"]["metadata"]["annotations"] = {"a": "b", INITIAL_END: "true"}
    stream.feed(encode_event({**marked, "type": "ADDED"}))
    assert stream.phase is Phase.MARKED
    stream.feed(encode_event(marked))
    assert (stream.phase, stream.resume_from) == (Phase.ORDERED, b"5")

"""Protobuf events: the quick look-up against the general way, and frames that are none."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lbproxy.core.watch import MAX_EVENT, Phase
from lbproxy.core.watch.progress import INITIAL_END
from lbproxy.core.watch.protobuf_events import ProtobufStream
from tests.core.watch.protobuf import Fields, frame, message, metadata
from tests.core.watch.recorded import RECORDINGS


def general(data: bytes) -> bytes | None:
    """The version, without the quick look-up."""
    stream = ProtobufStream(Phase.ORDERED, None)
    stream._event(data, 4, len(data))
    return stream.resume_from


strings = st.binary(max_size=5) | st.sampled_from([b"2\x01", b"\n\x05ADDED", b"x" * 127, b"x" * 128, b"x" * 300])
metadata_fields = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 11, 12, 17, 20]), strings | st.integers(0, 2**64 - 1)), max_size=8
)


@given(
    kind=st.sampled_from([b"ADDED", b"MODIFIED", b"DELETED", b"BOOKMARK", b"NEW"]),
    fields=metadata_fields,
    version=st.integers(1, 10**18),
    place=st.integers(0, 8),
    ordered=st.booleans(),
)
@example(b"ADDED", [(1, b"x" * 128)], 5, 1, True)
@example(b"ADDED", [(1, b"2\x019")], 5, 1, True)
@example(b"ADDED", [(1, 4), (2, b"xx2\x019")], 5, 2, True)
def test_the_version_is_the_objects_own(kind: bytes, fields: Fields, version: int, place: int, ordered: bool) -> None:
    fields = [field for field in fields if field[0] != 6 or isinstance(field[1], int)]
    fields.insert(place, (6, b"%d" % version))
    if ordered:
        fields.sort(key=lambda field: field[0])
    data = frame(kind, message(fields))
    stream = ProtobufStream(Phase.ORDERED, None)
    assert stream.feed(data * 2) == data * 2
    assert stream.resume_from == general(data) == b"%d" % version
    assert stream.events == 2


@pytest.mark.parametrize(
    "data",
    [
        frame(b"ADDED", None),
        frame(b"ADDED", b""),
        frame(b"ADDED", message([(1, b"x")])),
        frame(b"ADDED", metadata(b"")),
        frame(b"ADDED", metadata(b"5a")),
        frame(b"ADDED", metadata(b"-5")),
        frame(b"ADDED", metadata(b"5" * 20)),
        frame(b"ADDED", metadata(b"\xd9\xa5")),
        frame(b"ADDED", metadata(b"5"), magic=b"k8s\x01"),
        frame(b"ADDED", metadata(b"5"), magic=b""),
    ],
)
def test_an_event_whose_version_is_not_known(data: bytes) -> None:
    stream = ProtobufStream(Phase.ORDERED, b"1")
    assert stream.feed(data) is data
    assert (stream.resume_from, stream.lost, stream.at_boundary) == (None, False, True)
    stream.feed(frame(b"ADDED", metadata(b"7")))
    assert stream.resume_from == b"7"


def test_an_object_in_another_encoding_has_no_version() -> None:
    assert general(frame(b"ADDED", metadata(b"5"), encoding=b"gzip")) is None


@pytest.mark.parametrize(
    "data",
    [
        pack(">I", 3) + b"\x0b\x00\x00",  # a group
        pack(">I", 3) + b"\x0f\x00\x00",  # wire type 7
        pack(">I", 3) + b"\x12\x7f\x00",  # longer than its message
        pack(">I", 12) + b"\x08" + b"\xff" * 11,  # a number without an end
        pack(">I", MAX_EVENT + 1),
        b"HTTP/1.1 502 Bad Gateway\r\n",
        b'{"type":"ADDED","object":{}}\n',
    ],
)
def test_what_is_no_event_is_passed_on_and_ends_all_hope(data: bytes) -> None:
    stream = ProtobufStream(Phase.UNORDERED, None)
    assert stream.feed(data[:2]) == b""
    assert stream.feed(data[2:] + b"more") == data + b"more"
    assert (stream.resume_from, stream.lost) == (None, True)
    at_once = ProtobufStream(Phase.ORDERED, b"1")
    assert at_once.feed(data) is data
    assert at_once.resume_from is None


@given(data=st.binary(max_size=60), phase=st.sampled_from([Phase.UNORDERED, Phase.ORDERED, Phase.MARKED]))
def test_anything_in_a_frame_is_passed_on(data: bytes, phase: Phase) -> None:
    stream = ProtobufStream(phase, b"1")
    data = pack(">I", len(data)) + data
    assert stream.feed(data) is data
    assert stream.lost or stream.events == 1


@given(position=st.integers(0, 10**4), value=st.integers(0, 255))
def test_a_broken_byte_breaks_nothing_else(position: int, value: int) -> None:
    recording = next(recording for recording in RECORDINGS if recording.name == "protobuf")
    broken = bytearray(recording.body)
    broken[position % len(broken)] = value
    stream = ProtobufStream(Phase.ORDERED, b"1")
    forwarded = stream.feed(bytes(broken))
    assert broken.startswith(forwarded)
    assert len(forwarded) + stream.held == len(broken)


@pytest.mark.parametrize(
    "annotations", [{}, {INITIAL_END: "false"}, {"a": INITIAL_END}, {f"{INITIAL_END}x": "true"}, {"a": "true"}]
)
def test_a_watch_list_can_be_resumed_after_its_mark(annotations: dict[str, str]) -> None:
    marked = {"a": "b", INITIAL_END: "true", "c": "d"}
    stream = ProtobufStream(Phase.MARKED, None)
    stream.feed(frame(b"BOOKMARK", metadata(b"5", annotations)))
    stream.feed(frame(b"ADDED", metadata(b"5", marked)))
    stream.feed(frame(b"MODIFIED", metadata(b"6")))
    assert (stream.phase, stream.resume_from, stream.events) == (Phase.MARKED, None, 3)
    stream.feed(frame(b"BOOKMARK", metadata(b"6", marked)))
    assert (stream.phase, stream.resume_from) == (Phase.ORDERED, b"6")


def test_a_large_event_is_held_until_it_is_whole() -> None:
    event = frame(b"ADDED", metadata(b"5", {"a": "x" * (MAX_EVENT - 500)}))
    stream = ProtobufStream(Phase.ORDERED, b"1")
    pieces = [event[at : at + 65536] for at in range(0, len(event), 65536)]
    assert [stream.feed(piece) for piece in pieces[:-1]] == [b""] * (len(pieces) - 1)
    assert stream.feed(pieces[-1] + b"\x00") == event
    assert (stream.resume_from, stream.held) == (b"5", 1)

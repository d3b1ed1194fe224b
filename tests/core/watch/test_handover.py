"""A watch that moves to another process between any two bytes goes on as if it had stayed."""

from __future__ import annotations

import pickle

import pytest

from lbproxy.core.handover import pack, unpack
from lbproxy.core.http1 import ChunkedWalk
from lbproxy.core.watch import WatchBody, body_from, body_state
from tests.core.watch.recorded import RECORDINGS, Recording
from tests.core.watch.test_body import open_body


def moved(body: WatchBody) -> WatchBody:
    return body_from(unpack(pack(body_state(body))))


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
@pytest.mark.parametrize("framed", [True, False])
def test_at_every_byte(recording: Recording, framed: bool) -> None:
    whole = open_body(recording, framed=framed)
    stays = open_body(recording, framed=framed)
    data = recording.chunks
    expected = whole.feed(data)
    step = 13 if recording.derived or len(data) > 4000 else 1
    for cut in range(0, len(data), step):
        first = open_body(recording, framed=framed)
        begin = first.feed(data[:cut])
        second = moved(first)
        assert second.stream.resume_from == first.stream.resume_from
        assert second.stream.at_boundary == first.stream.at_boundary
        end = second.feed(data[cut:])
        assert second.end == len(data) - cut
        assert second.stream.events == whole.stream.events
        assert second.stream.resume_from == whole.stream.resume_from
        if framed:
            assert _data(begin + end) == _data(expected)
        else:
            assert begin + end == expected
    assert stays.end == -1


def test_moved_after_every_byte() -> None:
    recording = RECORDINGS[0]
    body = open_body(recording)
    forwarded = b""
    for at in range(len(recording.chunks)):
        forwarded += body.feed(recording.chunks[at : at + 1])
        body = moved(body)
    assert _data(forwarded) == recording.body


def test_only_values_are_read() -> None:
    state = {"a": (1, b"x", None, [True, {"b": 2.5}]), "c": "text"}
    assert unpack(pack(state)) == state
    for hostile in (pickle.dumps(ChunkedWalk), pickle.dumps([1]), b"", pack(state)[:-3], b"cos\nsystem\n(S'true'\ntR."):
        with pytest.raises(ValueError, match="not a"):
            unpack(hostile)


def _data(framed: bytes) -> bytes:
    pieces: list[bytes] = []
    ChunkedWalk().feed(framed + b"0\r\n\r\n", 0, pieces)
    return b"".join(pieces)

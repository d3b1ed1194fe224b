"""Bodies in chunks: what leaves is whole events in whole chunks, whatever they came in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.http1 import BadMessageError, ChunkedWalk
from lbproxy.core.watch import LAST_CHUNK, Phase, WatchBody, open_watch, parse_watch_request
from lbproxy.core.watch.cbor_events import CborStream
from lbproxy.core.watch.json_events import JsonStream
from lbproxy.core.watch.protobuf_events import ProtobufStream
from lbproxy.core.watch.stream import WatchStream
from tests.core.watch import cbor, protobuf
from tests.core.watch.recorded import RECORDINGS, Recording


def open_body(recording: Recording, *, framed: bool = True) -> WatchBody:
    request = parse_watch_request(recording.target)
    assert request is not None
    stream = open_watch(request, recording.head)
    assert stream is not None
    return WatchBody(stream, framed=framed)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def unchunked(data: bytes) -> bytes:
    """The body in whole chunks without the last one."""
    pieces: list[bytes] = []
    assert ChunkedWalk().feed(data + LAST_CHUNK, 0, pieces) == len(data + LAST_CHUNK)
    return b"".join(pieces)


def event(number: int, size: int = 10) -> bytes:
    return b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"%d"},"data":"%b"}}\n' % (number, b"x" * size)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
@pytest.mark.parametrize("framed", [True, False])
def test_recordings_byte_by_byte_and_at_once(recording: Recording, framed: bool) -> None:
    at_once = open_body(recording, framed=framed)
    whole = at_once.feed(recording.chunks)
    assert at_once.end == len(recording.chunks)
    pieces = open_body(recording, framed=framed)
    forwarded = [pieces.feed(recording.chunks[at : at + 1]) for at in range(len(recording.chunks))]
    assert pieces.end == 1
    for body, result in ((at_once, whole), (pieces, b"".join(forwarded))):
        assert (unchunked(result) if framed else result) == recording.body
        assert body.stream.events == len(recording.events)
    assert at_once.stream.resume_from == pieces.stream.resume_from
    assert len([piece for piece in forwarded if piece]) == len(recording.events)


@pytest.mark.parametrize(
    "recording",
    [recording for recording in RECORDINGS if len(recording.chunks) < 4000],
    ids=lambda recording: recording.name,
)
def test_a_recording_in_two_parts_and_its_end(recording: Recording) -> None:
    for cut in range(len(recording.chunks) + 1):
        body = open_body(recording)
        first, second = recording.chunks[:cut], recording.chunks[cut:]
        result = body.feed(b"HTTP" + first, 4)
        result += body.feed(second + b"next") if second else b""
        assert unchunked(result) == recording.body
        assert body.end == (len(second) if second else 4 + len(first))


def test_an_event_in_a_chunk_of_its_own_leaves_as_it_came() -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, None))
    for number in range(3):
        data = chunk(event(number))
        assert body.feed(data) is data
    burst = b"".join(chunk(event(number)) for number in range(3, 9))
    assert body.feed(burst) is burst
    large = chunk(event(10, 50_000))
    assert body.feed(large) is large
    assert (body.stream.events, body.stream.resume_from) == (10, b"10")


@given(
    sizes=st.lists(st.sampled_from([0, 1, 50, 2500]), max_size=6),
    cuts=st.lists(st.integers(1, 4000), max_size=8),
    reads=st.lists(st.integers(1, 6000), max_size=12),
    phase=st.sampled_from([Phase.ORDERED, Phase.UNORDERED, Phase.MARKED]),
    error=st.booleans(),
)
def test_whatever_chunks_events_come_in(
    sizes: list[int], cuts: list[int], reads: list[int], phase: Phase, error: bool
) -> None:
    events = [event(number, size) for number, size in enumerate(sizes, 1)]
    if error and events:
        events[-1] = events[-1].replace(b"ADDED", b"ERROR")
    payload = b"".join(events)
    chunks, at = b"", 0
    for cut in [*cuts, len(payload)]:
        if payload[at : at + cut]:
            chunks += chunk(payload[at : at + cut])
        at += cut
    reference = JsonStream(phase, None)
    reference.feed(payload)
    body = WatchBody(JsonStream(phase, None))
    forwarded, at = b"", 0
    for read in [*reads, len(chunks)]:
        if chunks[at : at + read]:
            ready = body.feed(chunks[at : at + read])
            assert unchunked(ready) in payload
            forwarded += ready
        at += read
    assert body.end == -1
    assert unchunked(forwarded) == payload
    assert (body.stream.events, body.stream.resume_from) == (reference.events, reference.resume_from)
    assert body.stream.phase is reference.phase
    assert body.feed(LAST_CHUNK) == b""
    assert body.end == len(LAST_CHUNK)


def test_resuming_drops_what_the_last_backend_did_not_finish() -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, b"1"))
    assert body.feed(chunk(event(2))) == chunk(event(2))
    assert body.feed(chunk(event(3))[:30]) == b""
    assert (body.stream.held, body.stream.at_boundary) == (26, False)
    body.resume()
    assert (body.stream.held, body.stream.at_boundary) == (0, True)
    assert body.feed(chunk(event(3))) == chunk(event(3))
    assert body.feed(LAST_CHUNK) == b""
    assert body.end == len(LAST_CHUNK)
    body.resume()
    assert body.end == -1
    assert body.feed(chunk(event(4))) == chunk(event(4))
    assert body.stream.resume_from == b"4"


@pytest.mark.parametrize("bad", [b"zz\r\n", b"3\r\nabcd", chunk(event(3)) + b"3\r\nabcd\r\n", b"5;\x00\r\n"])
def test_what_is_no_chunk_leaves_the_stream_as_it_was(bad: bytes) -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, b"1"))
    body.feed(chunk(event(2)))
    with pytest.raises(BadMessageError):
        body.feed(bad)
    assert (body.stream.resume_from, body.stream.events) == (b"2", 1)
    body.resume()
    assert body.feed(chunk(event(3))) == chunk(event(3))


def test_what_looks_like_a_whole_chunk_within_another_one() -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, b"1"))
    assert body.feed(b"1") == b""
    inner = chunk(event(2))
    assert len(b"%x" % len(event(2))) == 2
    assert body.feed(inner) == chunk(event(2) + b"\r\n")
    assert body.feed(inner) == chunk(inner)


@pytest.mark.parametrize("encoding", ["json", "protobuf", "cbor"])
def test_an_event_whose_second_half_looks_like_a_whole_one(encoding: str) -> None:
    """As when Go's buffer was full in front of an embedded schema: `{"type":"string"}`."""
    stream: WatchStream
    match encoding:
        case "json":
            stream = JsonStream(Phase.ORDERED, b"1")
            whole = event(2).replace(b'"data":', b'"data":{"type":"string"},"x":')
            half = whole.index(b'{"type":"string"}')
        case "protobuf":
            stream = ProtobufStream(Phase.ORDERED, b"1")
            inner = protobuf.frame(b"ADDED", protobuf.metadata(b"9"))
            whole = protobuf.frame(b"ADDED", protobuf.metadata(b"2", {"x": "y"}), behind=inner)
            half = len(whole) - len(inner)
            assert whole.endswith(inner)
        case _:
            stream = CborStream(Phase.ORDERED, b"1")
            body = {"metadata": {"resourceVersion": "2"}}
            inner = cbor.encode({"type": "ADDED", "object": {"metadata": {"resourceVersion": "9"}}})
            whole = cbor.encode({"type": "ADDED", "object": body, "x": 0})[:-1] + inner
            half = len(whole) - len(inner)
    watch = WatchBody(stream)
    assert watch.feed(chunk(whole[:half])) == b""
    assert watch.feed(chunk(whole[half:])) == chunk(whole)
    assert (stream.events, stream.resume_from, stream.at_boundary) == (1, b"2", True)


def test_a_backend_that_ends_within_an_event_is_passed_on() -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, b"1"))
    assert body.feed(chunk(b'{"type":')) == b""
    assert body.feed(LAST_CHUNK + b"x") == chunk(b'{"type":')
    assert body.end == len(LAST_CHUNK)


def test_a_lost_stream_is_passed_on() -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, b"1"))
    assert body.feed(chunk(b"no event\n")) == chunk(b"no event\n")
    assert body.feed(chunk(event(3)) + b"2\r\na") == chunk(event(3) + b"a")
    assert body.feed(b"b\r\n") == chunk(b"b")
    assert (body.stream.lost, body.stream.resume_from) == (True, None)
    with pytest.raises(ValueError, match="no version"):
        body.resume()


@pytest.mark.parametrize("framed", [True, False])
def test_a_refusal_is_held_back_until_nobody_is_left_to_ask(framed: bool) -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, b"5"), framed=framed)
    error = event(7).replace(b"ADDED", b"ERROR")
    for data in (chunk(error), chunk(error) + LAST_CHUNK, chunk(error + event(8)) + LAST_CHUNK):
        body.resume()
        assert body.feed(data) == b""
        assert (body.stream.refused, body.end >= 0) == (True, data.endswith(LAST_CHUNK))
    body.resume()
    body.feed(chunk(error)[:20])
    assert body.feed(chunk(error)[20:] + LAST_CHUNK) == b""
    assert body.give_in() == (chunk(error) if framed else error)
    assert body.stream.resume_from is None


def test_after_a_resumption_the_first_event_is_read_and_others_are_quick_again() -> None:
    body = WatchBody(JsonStream(Phase.ORDERED, b"5"))
    body.resume()
    assert body.feed(chunk(event(6))) == chunk(event(6))
    later = chunk(event(7))
    assert body.feed(later) is later
    error = chunk(event(8).replace(b"ADDED", b"ERROR"))
    assert body.feed(error) == error
    assert (body.stream.refused, body.stream.resume_from) == (False, None)


@pytest.mark.parametrize("encoding", [JsonStream, ProtobufStream, CborStream])
def test_an_event_that_has_just_passed_for_another_watch_passes_where_it_may(encoding: type[WatchStream]) -> None:
    """What was found out about the same bytes holds for a watch that is read alike and in order, and for no other."""
    events = {
        JsonStream: event(7),
        ProtobufStream: protobuf.frame(b"MODIFIED", protobuf.metadata(b"7")),
        CborStream: cbor.encode({"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "7"}}}),
    }
    data = chunk(events[encoding])

    def body(kind: type[WatchStream] = encoding, phase: Phase = Phase.ORDERED, *, framed: bool = True) -> WatchBody:
        return WatchBody(kind(phase, b"5"), framed=framed)

    assert body().feed(data) == data  # from here on that size is known
    first, second = body(), body()
    assert first.passes(data)
    assert second.passes(bytes(bytearray(data)))
    assert (second.stream.events, second.stream.resume_from) == (first.stream.events, first.stream.resume_from)
    assert second.stream.resume_from == b"7"
    for other in {JsonStream, ProtobufStream, CborStream} - {encoding}:
        assert first.passes(data)
        assert not body(other).passes(data)
    for phase in (Phase.UNORDERED, Phase.MARKED, Phase.RESUMED, Phase.ENDING, Phase.LOST):
        assert not body(phase=phase).passes(data)
    assert not body(framed=False).passes(data)
    within = body()
    assert within.feed(data[:20]) == b""
    assert not within.passes(data)
    held = body()
    half = events[encoding][:15]
    assert held.feed(chunk(half)) == b""
    assert not held.passes(data)

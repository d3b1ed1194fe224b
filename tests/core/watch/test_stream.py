"""Streams by what a real apiserver sent: what is forwarded, and from which version they can be resumed."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from lbproxy.core.watch import Phase, WatchRequest, WatchStream, open_watch, parse_watch_request
from tests.core.watch.recorded import RECORDINGS, Recording

all_recordings = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)


def request_of(recording: Recording) -> WatchRequest:
    request = parse_watch_request(recording.target)
    assert request is not None
    return request


def open_recording(recording: Recording) -> WatchStream:
    stream = open_watch(request_of(recording), recording.head)
    assert stream is not None
    return stream


@all_recordings
def test_whole_recordings_pass_unchanged(recording: Recording) -> None:
    stream = open_recording(recording)
    assert stream.feed(recording.body) is recording.body
    assert stream.events == len(recording.events)
    assert stream.resume_from == recording.versions()[-1]
    assert stream.at_boundary


@all_recordings
def test_byte_by_byte_each_event_leaves_with_its_last_byte(recording: Recording) -> None:
    stream = open_recording(recording)
    versions = recording.versions()
    forwarded = b""
    for end in range(1, len(recording.body) + 1):
        events = stream.events
        ready = stream.feed(recording.body[end - 1 : end])
        forwarded += ready
        assert stream.events == events + bool(ready)
        assert stream.at_boundary == (len(forwarded) == end)
        assert stream.held == end - len(forwarded)
        assert stream.resume_from == versions[stream.events]
    assert forwarded == recording.body
    assert stream.events == len(recording.events)


@all_recordings
def test_event_by_event_as_they_nearly_always_come(recording: Recording) -> None:
    stream = open_recording(recording)
    versions = recording.versions()
    for number, (start, end) in enumerate(pairwise(boundaries_of(recording)), 1):
        data = recording.body[start:end]
        assert stream.feed(data) is data
        if number % 2:  # so that others are replaced before they are read
            assert (stream.events, stream.resume_from) == (number, versions[number])


def boundaries_of(recording: Recording) -> list[int]:
    """Where each event ends."""
    stream = open_recording(recording)
    sizes = [len(stream.feed(recording.body[at : at + 1])) for at in range(len(recording.body))]
    return [0, *accumulate(size for size in sizes if size)]


@all_recordings
def test_cut_anywhere_and_resumed_nothing_is_missed_or_doubled(recording: Recording) -> None:
    """At each position the backend dies; another one sends what came after the version, and only that."""
    boundaries = boundaries_of(recording)
    versions = recording.versions()
    resumable = 0
    for cut in range(0, len(recording.body), 7 if recording.derived else 1):
        stream = open_recording(recording)
        forwarded = stream.feed(recording.body[:cut])
        assert len(forwarded) == max(at for at in boundaries if at <= cut)
        if stream.resume_from is None:
            continue
        resumable += 1
        stream.resume()
        after = boundaries[versions.index(stream.resume_from, stream.events)]
        forwarded += stream.feed(recording.body[after:])
        if stream.refused:
            forwarded += stream.give_in()
        assert forwarded == recording.body
        assert stream.events == len(recording.events)
        assert stream.resume_from == versions[-1]
    assert bool(resumable) == ("expired" not in recording.name or recording.versions()[0] is not None)


def test_what_exists_is_not_in_the_order_of_its_versions() -> None:
    """Why neither the last nor the highest of the made-up events' versions can be resumed from."""
    zero = next(recording for recording in RECORDINGS if recording.name == "json-zero")
    made_up = [int(version or b"") for _, version in zero.events[: zero.existing]]
    assert len(made_up) > 2
    assert made_up[0] == max(made_up)
    assert made_up[-1] == min(made_up)


@all_recordings
def test_phases(recording: Recording) -> None:
    stream = open_recording(recording)
    begin = Phase.MARKED if recording.marked else Phase.UNORDERED if recording.existing else Phase.ORDERED
    assert stream.phase is begin
    stream.feed(recording.body)
    assert stream.phase is (Phase.ENDING if recording.events[-1][0] == b"ERROR" else Phase.ORDERED)


@pytest.mark.parametrize(
    ("phase", "events", "partial", "age", "quiet", "may"),
    [
        (Phase.ORDERED, 0, False, 0.5, 0.5, False),
        (Phase.ORDERED, 0, False, 1.0, 1.0, True),
        (Phase.ORDERED, 1, False, 0.1, 0.0, True),
        (Phase.ORDERED, 1, True, 9.0, 9.0, False),
        (Phase.UNORDERED, 1, False, 9.0, 4.9, False),
        (Phase.UNORDERED, 1, False, 9.0, 5.0, True),
        (Phase.UNORDERED, 0, False, 9.0, 9.0, True),
        (Phase.UNORDERED, 1, True, 9.0, 9.0, False),
        (Phase.MARKED, 1, False, 99.0, 99.0, False),
        (Phase.MARKED, 0, False, 99.0, 99.0, False),
    ],
)
def test_where_a_response_may_be_ended(
    phase: Phase, events: int, partial: bool, age: float, quiet: float, may: bool
) -> None:
    target = {
        Phase.ORDERED: b"&resourceVersion=5",
        Phase.UNORDERED: b"",
        Phase.MARKED: b"&sendInitialEvents=true&allowWatchBookmarks=true",
    }
    request = parse_watch_request(b"/api/v1/pods?watch=1" + target[phase])
    assert request is not None
    stream = open_watch(request, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    assert stream is not None
    stream.feed(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"7"}}}\n' * events + b"{" * partial)
    assert stream.phase is phase
    assert stream.can_end(age, quiet) is may


def one_by_one(recording: Recording) -> list[bytes]:
    boundaries = boundaries_of(recording)
    return [recording.body[start:end] for start, end in pairwise(boundaries)]


@pytest.mark.parametrize("name", ["json", "table", "custom", "protobuf", "cbor"])
def test_versions_never_go_back(name: str) -> None:
    """Apiservers before 1.10 sent DELETED with the version of the last write before."""
    recording = next(recording for recording in RECORDINGS if recording.name == name)
    events = one_by_one(recording)
    last = recording.versions()[-1]
    stream = open_recording(recording)
    stream.feed(recording.body)
    for event in events[:-1]:
        stream.feed(event)
        assert stream.resume_from == last
    stream.resume()
    stream.feed(events[0])
    assert stream.resume_from == last


@pytest.mark.parametrize("name", ["json", "protobuf", "cbor"])
def test_an_error_that_has_not_been_read_yet_counts(name: str) -> None:
    recordings = {recording.name: recording for recording in RECORDINGS}
    stream = open_recording(recordings[name])
    error = recordings[f"{name}-expired"].body
    assert stream.feed(error) is error
    stream.feed(recordings[name].body)
    assert (stream.phase, stream.resume_from) == (Phase.ENDING, None)
    assert stream.events == 1 + len(recordings[name].events)


EXPIRED = [recording for recording in RECORDINGS if recording.name.endswith("-expired")]


@pytest.mark.parametrize("recording", EXPIRED, ids=lambda recording: recording.name)
@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_the_first_backend_to_go_on_says_that_the_version_has_expired(recording: Recording, step: int) -> None:
    """The next one may remember it."""
    encoding = recording.name.removesuffix("-expired")
    good = next(recording for recording in RECORDINGS if recording.name == encoding)
    pieces = [recording.body[at : at + step] for at in range(0, len(recording.body), step)]
    boundaries = boundaries_of(good)
    versions = good.versions()
    for events in range(len(boundaries)):
        stream = open_recording(good)
        assert stream.feed(good.body[: boundaries[events]]) == good.body[: boundaries[events]]
        for _ in range(2):
            stream.resume()
            assert [stream.feed(piece) for piece in pieces] == [b""] * len(pieces)
            assert (stream.refused, stream.at_boundary, stream.events) == (True, True, events)
            assert (stream.resume_from, stream.feed(b"{"), stream.lost) == (versions[events], b"", False)
        stream.resume()
        assert (stream.refused, stream.phase) == (False, Phase.RESUMED)
        assert stream.feed(good.body[boundaries[events] :]) == good.body[boundaries[events] :]
        assert (stream.events, stream.resume_from) == (len(good.events), versions[-1])
        stream.resume()
        stream.feed(recording.body)
        assert stream.give_in() == recording.body
        assert (stream.phase, stream.resume_from, stream.refused) == (Phase.ENDING, None, False)
        assert (stream.events, stream.at_boundary) == (len(good.events) + 1, True)


@pytest.mark.parametrize("recording", RECORDINGS[:1] + EXPIRED, ids=lambda recording: recording.name)
def test_a_backend_goes_on_with_what_is_no_event(recording: Recording) -> None:
    stream = open_recording(recording)
    version = stream.resume_from
    stream.resume()
    for data in (b"\xff\xff\xff\xff\n", b"more", recording.body):
        assert stream.feed(data) == b""
    assert (stream.phase, stream.refused, stream.at_boundary) == (Phase.FOREIGN, True, True)
    assert stream.resume_from == version
    stream.resume()
    assert stream.feed(b"\xff\xff\xff\xff\n") == b""
    assert stream.give_in() == b""
    assert (stream.phase, stream.resume_from) == (Phase.ENDING, None)

"""Streams by what a real apiserver sent: what is forwarded, and from which version they can be resumed."""

from __future__ import annotations

import pytest

from lbproxy.core.watch import Phase, WatchRequest, WatchStream, open_watch, parse_watch_request
from tests.core.watch.recorded import JSON, RECORDINGS, Recording


def request_of(recording: Recording) -> WatchRequest:
    request = parse_watch_request(recording.target)
    assert request is not None
    return request


def open_recording(recording: Recording) -> WatchStream:
    stream = open_watch(request_of(recording), recording.head)
    assert stream is not None
    return stream


def expected_versions(recording: Recording) -> list[bytes | None]:
    """The version to resume from after each number of events, by the rules in words."""
    request = request_of(recording)
    safe = b"resourceVersion=0" not in recording.target and b"resourceVersion=" in recording.target
    versions = [request.version]
    for kind, version in recording.events:
        safe = kind != b"ERROR" and (safe or kind != b"ADDED")
        versions.append(version if safe else None)
    return versions


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_whole_recordings_pass_unchanged(recording: Recording) -> None:
    stream = open_recording(recording)
    assert stream.feed(recording.body) is recording.body
    assert stream.events == len(recording.events)
    assert stream.resume_from == expected_versions(recording)[-1]
    assert stream.at_boundary


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_byte_by_byte_each_event_leaves_with_its_last_byte(recording: Recording) -> None:
    stream = open_recording(recording)
    versions = expected_versions(recording)
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


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_cut_anywhere_and_resumed_nothing_is_missed_or_doubled(recording: Recording) -> None:
    """At each position the backend dies; another one sends what came after the version, and only that."""
    boundaries = [0]
    stream = open_recording(recording)
    for end in range(1, len(recording.body) + 1):
        if stream.feed(recording.body[end - 1 : end]):
            boundaries.append(end)
    versions = expected_versions(recording)
    resumable = 0
    for cut in range(len(recording.body)):
        stream = open_recording(recording)
        forwarded = stream.feed(recording.body[:cut])
        assert len(forwarded) == max(at for at in boundaries if at <= cut)
        if stream.resume_from is None:
            continue
        resumable += 1
        stream.resume()
        after = boundaries[versions.index(stream.resume_from, stream.events)]
        assert forwarded + stream.feed(recording.body[after:]) == recording.body
        assert stream.events == len(recording.events)
        assert stream.resume_from == versions[-1]
    if recording.name not in ("json-expired", "protobuf-expired"):
        assert resumable


def test_what_exists_is_not_in_the_order_of_its_versions() -> None:
    """Why neither the last nor the highest of the made-up events' versions can be resumed from."""
    first = next(recording for recording in JSON if recording.name == "json-zero")
    versions = [int(version or b"") for kind, version in first.events]
    made_up = versions[: [kind for kind, _ in first.events].index(b"MODIFIED")]
    assert made_up[0] == max(made_up)
    assert made_up != sorted(made_up)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_phases(recording: Recording) -> None:
    stream = open_recording(recording)
    unordered = b"resourceVersion=0" in recording.target or b"resourceVersion=" not in recording.target
    assert stream.phase is (Phase.UNORDERED if unordered else Phase.ORDERED)
    stream.feed(recording.body)
    assert stream.phase is (Phase.ENDING if recording.events[-1][0] == b"ERROR" else Phase.ORDERED)

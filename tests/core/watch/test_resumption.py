"""Answers to resumed requests, and responses whose events can be told apart, by table."""

from __future__ import annotations

import pytest

from lbproxy.core.watch import Answer, Phase, judge_resumption, open_watch, parse_watch_request
from lbproxy.core.watch.json_events import JsonStream
from lbproxy.core.watch.protobuf_events import ProtobufStream
from lbproxy.core.watch.stream import WatchStream

JSON = b"Content-Type: application/json\r\n"
PROTOBUF = b"Content-Type: application/vnd.kubernetes.protobuf;stream=watch\r\n"


def head(status: int, lines: bytes) -> bytes:
    return b"HTTP/1.1 %d x\r\nCache-Control: no-cache, private\r\n%bDate: x\r\n\r\n" % (status, lines)


@pytest.mark.parametrize(
    ("status", "lines", "answer"),
    [
        (200, JSON, Answer.GO_ON),
        (200, JSON.lower(), Answer.GO_ON),
        (200, b"content-encoding: identity\r\n" + JSON, Answer.GO_ON),
        (200, JSON + b"Content-Encoding: gzip\r\n", Answer.ELSEWHERE),
        (200, PROTOBUF, Answer.ELSEWHERE),
        (200, b"", Answer.ELSEWHERE),
        (200, b"Content-Type: text/html\r\n", Answer.ELSEWHERE),
        (204, JSON, Answer.END),
        (302, JSON, Answer.END),
        (400, JSON, Answer.END),
        (401, JSON, Answer.END),
        (403, JSON, Answer.END),
        (404, JSON, Answer.ELSEWHERE),
        (406, JSON, Answer.ELSEWHERE),
        (410, JSON, Answer.ELSEWHERE),
        (422, JSON, Answer.END),
        (429, JSON + b"Retry-After: 1\r\n", Answer.ELSEWHERE),
        (500, JSON, Answer.ELSEWHERE),
        (502, b"Content-Type: text/html\r\n", Answer.ELSEWHERE),
        (503, JSON, Answer.ELSEWHERE),
        (504, JSON, Answer.ELSEWHERE),  # "Too large resource version": the backend's cache is behind
    ],
)
def test_answers_to_resumed_requests(status: int, lines: bytes, answer: Answer) -> None:
    assert judge_resumption(JsonStream(Phase.ORDERED, b"5"), status, head(status, lines)) is answer


def test_a_stream_goes_on_in_its_own_encoding() -> None:
    stream = ProtobufStream(Phase.ORDERED, b"5")
    assert judge_resumption(stream, 200, head(200, PROTOBUF)) is Answer.GO_ON
    assert judge_resumption(stream, 200, head(200, JSON)) is Answer.ELSEWHERE


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (JSON, JsonStream),
        (b"content-TYPE:application/json\r\n", JsonStream),
        (b"Content-Type: application/json;stream=watch\r\n", JsonStream),
        (b"Content-Type: application/json; stream=watch \r\n", JsonStream),
        (b"Content-Type: Application/JSON\r\n", JsonStream),
        (PROTOBUF, ProtobufStream),
        (JSON + b"Content-Encoding: identity\r\n", JsonStream),
        (JSON + b"Content-Encoding:\r\n", JsonStream),
        (JSON + b"content-encoding: gzip\r\n", None),
        (b"Content-Encoding: br\r\n" + PROTOBUF, None),
        (JSON + JSON, None),
        (b"", None),
        (b"X-Content-Type: application/json\r\n", None),
        (b"X: y Content-Type: application/json\r\n", None),
        (b"Content-Type: application/json;charset=utf-16\r\n", None),
        (b"Content-Type: application/vnd.kubernetes.protobuf\r\n", None),
        (b"Content-Type: application/yaml\r\n", None),
        (b"Content-Type: text/plain\r\n", None),
    ],
)
def test_whose_events_can_be_told_apart(lines: bytes, kind: type[WatchStream] | None) -> None:
    request = parse_watch_request(b"/api/v1/pods?watch=1&resourceVersion=5")
    assert request is not None
    stream = open_watch(request, head(200, lines))
    assert (None if stream is None else type(stream)) is kind
    assert stream is None or (stream.resume_from, stream.phase) == (b"5", Phase.ORDERED)

"""Answers that are recognised by the shape of their head are read as if they had been scanned."""

from __future__ import annotations

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from lbproxy.core.http1 import (
    BadMessageError,
    parse_response_head,
    plain_response,
    response_head_to_forward,
    whole,
    whole_answer,
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "_shapes", {})
    monkeypatch.setattr(whole, "_lengths", {})


def answer(*lines: bytes, body: bytes = b"hello", start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([start, *lines, b"", b""]) + body


AUDITED = (b"Audit-Id: 1f3c5f4e-73c4", b"Content-Type: application/json", b"Date: Sat, 28 Nov 2026 22:01:01 GMT")


def test_another_date_audit_id_and_length_are_the_same_shape() -> None:
    first = whole_answer(answer(*AUDITED, b"Content-Length: 05"))
    lines = (b"Audit-Id: 00000000-ffff", AUDITED[1], b"Date: Sat, 28 Nov 2026 23:59:00 GMT", b"Content-Length: 11")
    other = answer(*lines, body=b"hello again")
    assert first is not None
    assert whole_answer(other) is first
    assert (first.status, first.kind) == (200, 2)
    assert len(whole._shapes) == 1


@pytest.mark.parametrize(
    "data",
    [
        answer(b"Content-Length: 5", body=b"hell"),  # not here to its end
        answer(b"Content-Length: 5", body=b"hello!"),  # something behind it
        answer(b"Content-Length: 5", body=b"hello")[:30],
        answer(b"Content-Length: 5a"),
        answer(b"Content-Length: 5", b"Content-Length: 5"),
        answer(b"Content-Length: 5", b"Connection: close"),
        answer(b"Content-Length: 5", b"Connection: keep-alive", b"Keep-Alive: timeout=5"),
        answer(b"Content-Length: 5", b"connection: keep-alive"),
        answer(b"Content-Length: 5", b"Upgrade: h2"),
        answer(b"Content-Length: 5", b"X: a\nY: b"),
        answer(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        answer(b"Content-Length: 0", start=b"HTTP/1.1 204 No Content", body=b""),
        answer(b"Content-Length: 5", start=b"HTTP/1.0 200 OK"),
        answer(b"Content-Length: 5", start=b"HTTP/1.1 503 No"),  # may be an apiserver that shuts down
        answer(b"Content-Length: 5", start=b"HTTP/1.1 429 No"),
        answer(b"Content-Length: 5", b"X: " + b"x" * whole.MAX_HEAD),
        answer(),
        b"",
        b"\r\n\r\n",
    ],
)
def test_what_takes_the_long_way(data: bytes) -> None:
    assert whole_answer(data) is None
    assert whole_answer(data) is None  # nor when it has been seen


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Alike when digits and a to f are made alike, but one of the two is framed by that line.
        ((b"Content-Length: 5", b"Connaction: close"), (b"Content-Length: 5", b"Connection: close")),
        ((b"Content-Length: 5", b"Upgrada: x"), (b"Content-Length: 5", b"Upgrade: x")),
        ((b"Content-Length: 5", b"Contant-Length: 4"), (b"Content-Length: 5", b"Content-Length: 4")),
        ((b"Content-Length: 5",), (b"Contant-Length: 5",)),
        ((b"Content-Length: 5",), (b"Content-Lbngth: 5",)),
        ((b"Content-Length: 5", b"Connection: keep-alive"), (b"Content-Length: 5", b"Connection: kaep-alive")),
        ((b"Content-Length: 5", b"Connection: keep-alive"), (b"Content-Length: 5", b"Connaction: keep-alive")),
        ((b"Content-Length: 5", b"X: a"), (b"Content-Length: f", b"X: a")),
    ],
)
def test_what_only_looks_alike_is_not_taken_for_the_same(first: tuple[bytes, ...], second: tuple[bytes, ...]) -> None:
    for one, other in ((first, second), (second, first)):
        whole._shapes.clear()
        whole_answer(answer(*one))
        assert as_it_is_read(answer(*other)) in (None, as_it_is_scanned(answer(*other)))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "MAX_SHAPES", 10)
    for size in range(25):
        assert whole_answer(answer(b"X: " + b"x" * size, b"Content-Length: %d" % size, body=b"y" * size)) is not None
    assert len(whole._shapes) <= 10
    assert len(whole._lengths) <= 10


Read = tuple[int, list[bytes], list[bytes]]  # the status, and what goes to the client, kept open and closed


def as_it_is_read(data: bytes) -> Read | None:
    shape = whole_answer(data)
    if shape is None:
        return None
    return shape.status, _lines(shape.forward(data, close=False)), _lines(shape.forward(data, close=True))


def as_it_is_scanned(data: bytes) -> Read | None:
    """The long way's reading; None if it is not a whole ordinary answer there either."""
    end = data.find(b"\r\n\r\n")
    try:
        head = parse_response_head(data, end)
    except BadMessageError:
        return None
    if end < 0 or not head.whole or len(data) - end - 4 != head.length:
        return None
    kept = data if not head.hop else plain_response(head, data, end + 4)
    closed = response_head_to_forward(data[: end + 4], chunked=False, upgrade=False, connection=b"close")
    return head.status, _lines(kept), _lines(closed + data[end + 4 :])


def _lines(data: bytes) -> list[bytes]:
    """Our Connection line may stand anywhere."""
    head, _, body = data.partition(b"\r\n\r\n")
    return [*sorted(head.split(b"\r\n")), body]


names = st.sampled_from(
    [b"Content-Length", b"content-length", b"Contant-Length", b"dontent-Length", b"CONTENT-LENGTH", b"Connection",
     b"Connaction", b"connection", b"Keep-Alive", b"Kaep-Alive", b"Upgrade", b"Upgrafe", b"Transfer-Encoding",
     b"Transfer-Encodinf", b"Proxy-Connection", b"Date", b"Audit-Id", b"X-A", b"Content-Length ", b" Content-Length"]
)  # fmt: skip
values = st.sampled_from(
    [b"5", b"4", b"e", b"05", b"5 ", b"", b"keep-alive", b"kedp-alive", b"close", b"chunked", b"1f", b"2a",
     b"x\nContent-Length: 5", b"\x00"]
)  # fmt: skip
lines = st.builds(
    lambda name, blank, value: name + b":" + blank + value, names, st.sampled_from([b" ", b"", b"\t"]), values
)
starts = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 201 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 204 OK"]
)
bodies = st.sampled_from([b"hello", b"hell", b"", b"hello\r\n\r\n"])
answers = st.builds(
    lambda start, some, at, body: answer(*some[:at], b"Content-Length: 5", *some[at:], start=start, body=body),
    starts, st.lists(lines, max_size=3), st.integers(0, 3), bodies,
)  # fmt: skip
hexdigits = st.sampled_from(b"0123456789abcdef")


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """Answers of one shape, more or less: digits and letters to f are exchanged."""
    first = draw(answers)
    found = [first]
    for _ in range(draw(st.integers(1, 4))):
        data = bytearray(draw(st.sampled_from(found)))
        places = [at for at, byte in enumerate(data) if byte in b"0123456789abcdef"]
        for at in draw(st.lists(st.sampled_from(places), max_size=4)):
            data[at] = draw(hexdigits)
        found.append(bytes(data))
    return found


@given(st.lists(st.one_of(alike(), st.lists(answers, max_size=4)), max_size=4))
@settings(max_examples=600)
@example([[answer(b"Content-Length: 5", b"Contant-Length: 5"), answer(b"Contant-Length: 5", b"Content-Length: 5")]])
def test_whatever_came_before_an_answer_is_read_as_it_is_scanned(groups: list[list[bytes]]) -> None:
    whole._shapes.clear()
    for group in groups:
        for data in group:
            read = as_it_is_read(data)
            if read is not None:
                event("recognised")
                assert read == as_it_is_scanned(data)

"""Response heads, by table: where their bodies end, what is refused, what is forwarded."""

from __future__ import annotations

import pytest

from lbproxy.core.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    BadMessageError,
    parse_response_head,
    plain_response,
    response_head_to_forward,
)


def response(head: bytes) -> tuple[int, int, int, bool, int]:
    parsed = parse_response_head(head, head.index(b"\r\n\r\n"))
    return parsed.status, parsed.minor, parsed.length, parsed.close, parsed.hop


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        # (status, minor, length, close, hop-by-hop lines). HEAD, 204 and 304 have no body, whatever is said here.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, 1, 5, False, 0)),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5 \r\n\r\n", (200, 1, 5, False, 0)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", (200, 1, 5, False, 0)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", (200, 1, CHUNKED, False, 0)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding:CHUNKED\t\r\n\r\n", (200, 1, CHUNKED, False, 0)),
        (b"HTTP/1.1 200 OK\r\n\r\n", (200, 1, UNTIL_CLOSE, False, 0)),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", (200, 1, 0, False, 0)),
        (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", (200, 1, 0, False, 0)),
        (b"HTTP/1.1 200 S\xe3\xb6 nice\r\nContent-Length: 0\r\n\r\n", (200, 1, 0, False, 0)),
        (b"HTTP/1.0 200 OK\r\n\r\n", (200, 0, UNTIL_CLOSE, True, 0)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", (200, 0, 5, False, 1)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", (200, 0, 5, True, 0)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", (200, 1, 5, True, 1)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x,Close\r\n\r\n", (200, 1, 5, True, 1)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: closed\r\n\r\n", (200, 1, 5, False, 1)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: close\r\n\r\n", (200, 1, 5, False, 1)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, 1, UNTIL_CLOSE, False, 0)),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, 1, 5, False, 0)),
        (b"HTTP/1.1 100 Continue\r\n\r\n", (100, 1, UNTIL_CLOSE, False, 0)),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n",
            (101, 1, UNTIL_CLOSE, False, 2),
        ),
        (b"HTTP/1.1 200 OK\r\nX: Content-Length: 5\r\nX-Content-Length: 6\r\n\r\n", (200, 1, UNTIL_CLOSE, False, 0)),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n", (503, 1, 0, False, 0)),
    ],
)
def test_response_framing(head: bytes, expected: tuple[int, int, int, bool, int]) -> None:
    assert response(head) == expected
    assert response(head + b"body \r\n\r\n") == expected


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length\t: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n\tContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\rContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\x00\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
def test_responses_that_are_refused(head: bytes) -> None:
    with pytest.raises(BadMessageError):
        response(head)


HEAD = (
    b"HTTP/1.0 200 Fine\r\nX-A: 1\r\nConnection: keep-alive, X-B\r\nKeep-Alive: timeout=5\r\nx-b: 2\r\n"
    b"Transfer-Encoding: chunked\r\nUpgrade: h2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
)


@pytest.mark.parametrize(
    ("chunked", "upgrade", "connection", "lines"),
    [
        (True, False, b"", [b"X-A: 1", b"Transfer-Encoding: chunked", b"Set-Cookie: a", b"Set-Cookie: b"]),
        (False, False, b"close", [b"X-A: 1", b"Set-Cookie: a", b"Set-Cookie: b", b"Connection: close"]),
        (
            True,
            True,
            b"",
            [
                b"X-A: 1",
                b"Connection: keep-alive, X-B",
                b"Transfer-Encoding: chunked",
                b"Upgrade: h2",
                b"Set-Cookie: a",
                b"Set-Cookie: b",
            ],
        ),
    ],
)
def test_response_head_to_forward(chunked: bool, upgrade: bool, connection: bytes, lines: list[bytes]) -> None:
    head = response_head_to_forward(HEAD, chunked=chunked, upgrade=upgrade, connection=connection)
    assert head == b"\r\n".join([b"HTTP/1.1 200 Fine", *lines, b"", b""])


def test_a_response_cannot_nominate_its_own_length_for_removal() -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: content-length, transfer-encoding\r\nContent-Length: 5\r\n\r\n"
    forward = response_head_to_forward(head, chunked=True, upgrade=False, connection=b"")
    assert forward == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (b"\r\nConnection: keep-alive\r\nX: y", b"\r\nX: y"),
        (b"\r\nX: y\r\nConnection: keep-alive", b"\r\nX: y"),
        (b"\r\nX: Connection: keep-alive", None),
        (b"\r\nX: y\r\nConnection: keep-alive, x", None),
        (b"\r\nX: y\r\nconnection: keep-alive", None),
        (b"\r\nX: y\r\nUpgrade: x", None),
        (b"\r\nKeep-Alive: 5\r\nConnection: keep-alive", None),
    ],
)
def test_plain_response(lines: bytes, kept: bytes | None) -> None:
    head = b"HTTP/1.1 200 OK" + lines + b"\r\nContent-Length: 28\r\n\r\n"
    body = b"\r\nConnection: keep-alive\r\nxx"
    parsed = parse_response_head(head + body, len(head) - 4)
    assert parsed.whole
    got = plain_response(parsed, head + body, len(head))
    if kept is None:
        assert got == b""
    else:
        assert got == b"HTTP/1.1 200 OK" + kept + b"\r\nContent-Length: 28\r\n\r\n" + body

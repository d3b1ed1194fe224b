"""Chunked bodies, by table: where they end and what is refused."""

from __future__ import annotations

import pytest

from lbproxy.core.http1 import MAX_CHUNK_LINE, MAX_TRAILERS, BadMessageError, ChunkedWalk


def feed_bytewise(walk: ChunkedWalk, data: bytes) -> None:
    for byte in data:
        walk.feed(bytes([byte]))


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"00000005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b'5;a=b;c="d e\xff"\r\nhello\r\n0;x\r\n\r\n', b"hello"),
        (b"5;" + b"x" * (MAX_CHUNK_LINE - 3) + b"\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"0\r\nX-Checksum: 1\r\nX-Checksum:\t2\r\n\r\n", b""),
        (b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", b""),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"G", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"0\r\n\r\n"])
def test_chunked_bodies_end_where_they_end(body: bytes, payload: bytes, behind: bytes) -> None:
    sink: list[bytes] = []
    walk = ChunkedWalk()
    assert walk.feed(b"head" + body + behind, 4, sink) == 4 + len(body)
    assert (b"".join(sink), walk.payload) == (payload, len(payload))


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\t\r\nhello\r\n",
        b"5 ;a\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5h\r\nhello\r\n",
        b"1_0\r\n" + b"x" * 16 + b"\r\n",
        b"5,5\r\nhello\r\n",
        b";a\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;a\x00\r\nhello\r\n",
        b"10000000000000005\r\nhello\r\n",  # 2**64 + 5
        b"1000000000000000\r\n",
        "\u0665\r\nhello\r\n".encode(),
        b"5;" + b"x" * (MAX_CHUNK_LINE - 2) + b"\r\nhello\r\n",
        b"0" * (MAX_CHUNK_LINE + 1),
        b"0\r\nX\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\r\n folded\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\ntransfer-encoding: chunked\r\n\r\n",
        b"0\r\nHost: b\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * (MAX_TRAILERS // 4),
        b"0\r\nX: " + b"y" * MAX_TRAILERS,
    ],
)
def test_chunked_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(BadMessageError):
        ChunkedWalk().feed(body + b"\r\n")
    with pytest.raises(BadMessageError):
        feed_bytewise(ChunkedWalk(), body + b"\r\n")


def test_a_chunk_of_any_size_costs_no_memory() -> None:
    walk = ChunkedWalk()
    assert walk.feed(b"fffffffffffffff\r\n") == -1
    for _ in range(100):
        assert walk.feed(b"x" * 65536) == -1
    assert walk.payload == 100 * 65536

"""Chunked bodies: walked over to find their end, not decoded."""

from __future__ import annotations

import re

from lbproxy.core.http1.grammar import BadMessageError, match_header_line

MAX_CHUNK_LINE = 1024  # bytes of a chunk's size and extensions, or of a partial line; h11 and Go have similar limits
MAX_TRAILERS = 65536  # bytes of all trailer lines

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r").fullmatch
MAX_SIZES = 8192
_sizes: dict[bytes, int] = {}  # the length of chunk sizes that have been met, as they are spelt
# Names that may not stand in trailers: a recipient that merged them into the head would frame it differently.
_NO_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host", b"connection"})


class ChunkedWalk:
    """Finds the end of a chunked body, byte by byte or by the megabyte, and refuses what is not exactly one.

    State: `_left` bytes of the current chunk's data and its CRLF are to come; `_line` holds a partial size or trailer
    line; `_trailer` counts the bytes of trailers once the last chunk has been seen.
    """

    __slots__ = ("_left", "_line", "_trailer", "payload")

    def __init__(self) -> None:
        self._left = 0
        self._line = b""
        self._trailer = -1
        self.payload = 0  # bytes of data seen, framing not counted

    def feed(self, data: bytes, pos: int = 0, sink: list[bytes] | None = None) -> int:
        """The offset after the body's last byte, or -1 when all of `data` belongs to it and more is to come.

        Chunk data is appended to `sink` when there is one. Raises BadMessageError.
        """
        size = len(data)
        if not self._left and not self._line and self._trailer < 0 and sink is None:
            # One whole chunk, which is what an event of a watch is: the walk below would take three times as long.
            end = data.find(b"\r\n", pos, pos + 8)
            length = _sizes.get(data[pos:end])
            if length is not None and end + length + 4 == size and data.endswith(b"\r\n"):
                self.payload += length
                return -1
        while True:
            if self._left:
                pos = self._data(data, pos, size, sink)
                if self._left:
                    return -1
            end = data.find(b"\n", pos)
            if end < 0:
                self._line += data[pos:]
                if len(self._line) > MAX_CHUNK_LINE and (self._trailer < 0 or len(self._line) > MAX_TRAILERS):
                    raise BadMessageError("a chunk's size line is too long")
                return -1
            line = self._line + data[pos:end] if self._line else data[pos:end]
            self._line = b""
            pos = end + 1
            if self._trailer >= 0:
                if line == b"\r":
                    return pos
                self._trailer_line(line)
            else:
                self._size_line(line)

    def state(self) -> tuple[int, bytes, int, int]:
        """Where it is, for another process that goes on."""
        return self._left, self._line, self._trailer, self.payload

    def restore(self, state: tuple[int, bytes, int, int]) -> None:
        """Go on where another one was."""
        self._left, self._line, self._trailer, self.payload = state

    @property
    def in_chunk(self) -> int:
        """Bytes of the current chunk's data that are still to come."""
        return max(self._left - 2, 0)

    def skip(self, size: int) -> None:
        """So many bytes of the current chunk's data have gone another way; at most `in_chunk`."""
        self._left -= size
        self.payload += size

    def _data(self, data: bytes, pos: int, size: int, sink: list[bytes] | None) -> int:
        left = self._left
        if left > 2:
            take = min(left - 2, size - pos)
            if sink is not None and take:
                sink.append(data[pos : pos + take])
            self.payload += take
            left -= take
            pos += take
        while left <= 2 and left and pos < size:
            if data[pos] != (0x0D if left == 2 else 0x0A):
                raise BadMessageError("a chunk is longer than its size says")
            left -= 1
            pos += 1
        self._left = left
        return pos

    def _size_line(self, line: bytes) -> None:
        match = _CHUNK_LINE(line)
        if match is None or len(line) > MAX_CHUNK_LINE:
            raise BadMessageError("a chunk size is malformed")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
            if len(line) <= 7:
                if len(_sizes) >= MAX_SIZES:
                    _sizes.clear()
                _sizes[line[:-1]] = size
        else:
            self._trailer = 0

    def _trailer_line(self, line: bytes) -> None:
        self._trailer += len(line)
        if self._trailer > MAX_TRAILERS:
            raise BadMessageError("the trailers are too long")
        match = match_header_line(line[:-1])
        if line[-1:] != b"\r" or match is None:
            raise BadMessageError("a trailer line is malformed")
        if match[1].lower() in _NO_TRAILERS:
            raise BadMessageError("a trailer line says what only a head may (RFC 9110, 6.5.1)")

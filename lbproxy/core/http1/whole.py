"""Answers that are here to their end and have a head like one before: recognised instead of scanned.

A server answers one kind of request with heads that differ in a date, an audit id and a length. With the characters
that these are made of (digits, a to f) made alike, such heads are the same bytes, with the same lines at the same
places: one look-up takes the place of the scan, at half of its cost. That nothing frames the one and not the other is
seen to in two ways: what frames (status, Content-Length, Connection) is compared as it is, and a head with a line that
would look like one of these when made alike (`Contant-Length`) is never remembered.
"""

from __future__ import annotations

import re

from lbproxy.core.http1.grammar import MAX_LENGTH_DIGITS, BadMessageError
from lbproxy.core.http1.response import FRAMING_NAMES, KEEP_ALIVE, framing_lines, parse_response_head

_BLANK = bytes.maketrans(b"0123456789abcdef", b"0" * 16)
_BLANK_NAMES = frozenset(name.translate(_BLANK) for name in FRAMING_NAMES)
_NAMES = re.compile(rb"\r\n([^:\r\n]*)").findall
_CLOSE = b"\r\nConnection: close"

MAX_SHAPES = 1024
MAX_HEAD = 1024  # bytes
_shapes: dict[bytes, Shape | None] = {}  # None: heads of that shape take more than the short way
_lengths: dict[bytes, int] = {}


class Shape:
    """Where in heads that are alike things stand. Offsets count from the head's first byte."""

    __slots__ = ("at", "connection", "kind", "length", "length_at", "length_end", "length_line", "start", "status",
                 "until")  # fmt: skip

    def __init__(self, start: bytes, status: int, length_line: int, length_at: int, length_end: int, length: bytes):
        self.start = start  # the status line's first 13 bytes
        self.status = status
        self.kind = status // 100
        self.length_line = length_line  # of the Content-Length line: its CRLF, its value, and the end of that
        self.length_at = length_at
        self.length_end = length_end
        self.length = length  # the line up to its value
        # What a Connection line of ours replaces: `Connection: keep-alive`, which HTTP/1.1 means anyway, or nothing.
        self.at = self.until = length_line
        self.connection = b""

    def forward(self, data: bytes, *, close: bool) -> bytes:
        """The answer as it goes to a client of HTTP/1.1."""
        if close:
            return data[: self.at] + _CLOSE + data[self.until :]
        return data[: self.at] + data[self.until :] if self.connection else data


def whole_answer(data: bytes) -> Shape | None:
    """The shape of an ordinary answer that is complete and has nothing behind it; None if it is not, or may not be.

    Ordinary are those whose head is `whole` and has no hop-by-hop lines other than `Connection: keep-alive`.
    """
    end = data.find(b"\r\n\r\n")
    if not 0 < end <= MAX_HEAD:
        return None
    blank = data[:end].translate(_BLANK)
    try:
        shape = _shapes[blank]
    except KeyError:
        shape = _learn(data, end, blank)
    if (
        shape is None
        or data[:13] != shape.start
        or data[shape.length_line : shape.length_at] != shape.length
        or (shape.connection and data[shape.at : shape.until] != shape.connection)
    ):
        return None
    digits = data[shape.length_at : shape.length_end]
    length = _lengths.get(digits)
    if length is None and (length := _read_length(digits)) is None:
        return None
    return shape if len(data) - end - 4 == length else None


def _read_length(digits: bytes) -> int | None:
    if not digits.isdigit() or len(digits) > MAX_LENGTH_DIGITS:
        return None
    if len(_lengths) >= MAX_SHAPES:
        _lengths.clear()
    _lengths[digits] = length = int(digits)
    return length


def _learn(data: bytes, end: int, blank: bytes) -> Shape | None:
    try:
        shape = _shape_of(data, end)
    except BadMessageError:  # the long way says what is wrong with it
        return None
    if len(_shapes) >= MAX_SHAPES:
        _shapes.clear()
    _shapes[blank] = shape
    return shape


def _shape_of(data: bytes, end: int) -> Shape | None:
    """Scan a head. Raises BadMessageError."""
    head = parse_response_head(data, end)
    if not head.whole or head.hop > 1 or any(map(_looks_like_framing, _NAMES(data, 0, end))):
        return None
    shape, connection_at = None, -1
    for line in framing_lines(data[:end]):
        text = line[0]
        if text == KEEP_ALIVE:
            connection_at = line.start()
        elif shape is None and text[2:16].lower() == b"content-length":
            value = re.search(rb":[ \t]*([0-9]+)[ \t]*$", text)
            if value is None:
                return None
            at, until = line.start() + value.start(1), line.start() + value.end(1)
            shape = Shape(data[:13], head.status, line.start(), at, until, data[line.start() : at])
        else:
            return None
    if shape is not None and connection_at >= 0:
        shape.at, shape.until, shape.connection = connection_at, connection_at + len(KEEP_ALIVE), KEEP_ALIVE
    return shape


def _looks_like_framing(name: bytes) -> bool:
    """Is it no framing line's name, and could one be mistaken for it, or it for one?"""
    name = name.rstrip(b" \t").lower()
    return name not in FRAMING_NAMES and name.translate(_BLANK) in _BLANK_NAMES

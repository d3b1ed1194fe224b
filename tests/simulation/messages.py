"""HTTP/1.1 as the simulated ends read it: just enough, strict, and telling whole from cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from tests.simulation.network import Violation


class Part(Enum):
    HEAD = "head"
    DATA = "data"
    END = "end"


@dataclass(frozen=True, slots=True)
class Head:
    first: str
    fields: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    @property
    def closes(self) -> bool:
        return self.fields.get("connection", "").lower() == "close"


class Reader:
    """A stream of messages, all of which have a length or are chunked."""

    def __init__(self) -> None:
        self._buffer = b""
        self._left = -1  # of the body, or of the chunk; -1 before a head, -2 before a chunk's size, -3 behind a chunk
        self._chunked = False

    @property
    def idle(self) -> bool:
        """Between two messages."""
        return self._left == -1 and not self._buffer

    def feed(self, data: bytes) -> Iterator[tuple[Part, Head | bytes]]:
        """What has become whole."""
        self._buffer += data
        while True:
            if self._left == -1:
                head, found, rest = self._buffer.partition(b"\r\n\r\n")
                if not found:
                    return
                self._buffer = rest
                yield Part.HEAD, self._begin(head.decode())
                if not self._left and not self._chunked:
                    self._left = -1
                    yield Part.END, b""
            elif self._left == -2:
                size, found, rest = self._buffer.partition(b"\r\n")
                if not found:
                    return
                self._buffer, self._left = rest, int(size, 16) or -4
            elif self._left in (-3, -4):
                if len(self._buffer) < 2:
                    return
                if self._buffer[:2] != b"\r\n":
                    raise Violation(f"a chunk ends in {self._buffer[:2]!r}")
                self._buffer = self._buffer[2:]
                if self._left == -3:
                    self._left = -2
                else:
                    self._left = -1
                    yield Part.END, b""
            else:
                if not self._buffer:
                    return
                piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                self._left -= len(piece)
                yield Part.DATA, piece
                if not self._left:
                    self._left = -3 if self._chunked else -1
                    if not self._chunked:
                        yield Part.END, b""

    def _begin(self, text: str) -> Head:
        first, *lines = text.split("\r\n")
        if first.count(" ") < 2:
            raise Violation(f"a message begins with {first[:100]!r}")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._chunked = fields.get("transfer-encoding") == "chunked"
        self._left = -2 if self._chunked else int(fields.get("content-length", "0"))
        return Head(first, fields)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)

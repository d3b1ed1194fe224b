"""Just enough SPDY/3.1 to be the far end of `kubectl exec`, `attach` and `port-forward`.

kubectl up to 1.29 speaks it for all three, newer ones for port-forward, inside WebSocket messages (KEP-4006). Each
stream says in its header `streamtype` what it is: error, stdin, stdout, stderr, resize; or error and data, a pair per
forwarded connection. Frames are those of the SPDY/3.1 draft: https://www.chromium.org/spdy/spdy-protocol/.

`SpdyEcho` does no I/O: bytes of the client in, bytes for it out.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

from lbproxy.demo.store import encode

VERSION = 3
FIN = 0x01

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(4) + raw


DICTIONARY = b"".join(_text(word.replace("_", " ")) for word in _WORDS.split()) + _TEXT.encode()
"""What both sides preload zlib with, section 2.6.10.1 of the draft."""


class Control(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    PING = 6


@dataclass(frozen=True, slots=True)
class Frame:
    control: int
    """The type of a control frame, 0 for data."""
    stream: int
    flags: int
    payload: bytes


def data_frame(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return stream.to_bytes(4) + bytes([flags]) + len(payload).to_bytes(3) + payload


def control_frame(kind: int, payload: bytes, flags: int = 0) -> bytes:
    head = (0x8000 | VERSION).to_bytes(2) + kind.to_bytes(2)
    return head + bytes([flags]) + len(payload).to_bytes(3) + payload


class HeaderCodec:
    """Header blocks of one connection: each direction is one long zlib stream."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def decode(self, block: bytes) -> dict[str, str]:
        """Raises `ValueError` or `zlib.error` for what is no header block."""
        plain, at = self._inflate.decompress(block), 4
        texts: list[str] = []
        for _ in range(2 * int.from_bytes(plain[:4])):
            size = int.from_bytes(plain[at : at + 4])
            if at + 4 + size > len(plain):
                raise ValueError("a header block that is cut off")
            texts.append(plain[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def encode(self, headers: dict[str, str]) -> bytes:
        plain = len(headers).to_bytes(4) + b"".join(_text(name) + _text(value) for name, value in headers.items())
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


class SpdyEcho:
    """Answers one client. With `streams` it is a command that waits for these, else every `data` stream is echoed."""

    def __init__(self, streams: frozenset[str] = frozenset(), greeting: bytes = b"") -> None:
        self._buffer = bytearray()
        self._headers = HeaderCodec()
        self._awaited = set(streams)
        self._greeting = greeting
        self._types: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self.finished = False
        """The command has ended; what follows from the client is of no interest."""

    def feed(self, data: bytes) -> bytes:
        """What to answer. Raises `ValueError` or `zlib.error` for what is not SPDY/3."""
        self._buffer += data
        answer = b""
        while (found := self._next()) is not None:
            answer += self._answer(found)
        return answer

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 8:
            return None
        size = 8 + int.from_bytes(buffer[5:8])
        if len(buffer) < size:
            return None
        head, payload = int.from_bytes(buffer[:4]), bytes(buffer[8:size])
        flags = buffer[4]
        del buffer[:size]
        if not head >> 31:
            return Frame(0, head, flags, payload)
        if head >> 16 != 0x8000 | VERSION:
            raise ValueError(f"not SPDY/3: {head:08x}")
        return Frame(head & 0xFFFF, int.from_bytes(payload[:4]) & 0x7FFFFFFF, flags, payload)

    def _answer(self, frame: Frame) -> bytes:
        if frame.control == 0:
            return self._data(frame)
        if frame.control == Control.PING:
            return control_frame(Control.PING, frame.payload)
        if frame.control == Control.SYN_STREAM:
            return self._opened(frame)
        return b""  # window updates, resets, GOAWAY: an echo has nothing to do about them

    def _opened(self, frame: Frame) -> bytes:
        kind = self._headers.decode(frame.payload[10:]).get("streamtype", "")
        self._types[frame.stream] = kind
        self._ids[kind] = frame.stream
        answer = control_frame(Control.SYN_REPLY, frame.stream.to_bytes(4) + self._headers.encode({}))
        if kind in self._awaited:
            self._awaited.remove(kind)
            if not self._awaited:
                answer += self._started()
        return answer

    def _started(self) -> bytes:
        said = data_frame(self._ids["stdout"], self._greeting) if "stdout" in self._ids else b""
        return said if "stdin" in self._ids else said + self._ended()

    def _ended(self) -> bytes:
        self.finished = True
        status = encode({"metadata": {}, "status": "Success"})
        outputs = [self._ids[kind] for kind in ("stdout", "stderr") if kind in self._ids]
        closing = b"".join(data_frame(stream, b"", FIN) for stream in outputs)
        return closing + data_frame(self._ids["error"], status, FIN)

    def _data(self, frame: Frame) -> bytes:
        match self._types.get(frame.stream):
            case "stdin" if not self.finished:
                echoed = data_frame(self._ids["stdout"], frame.payload) if "stdout" in self._ids else b""
                return echoed + (self._ended() if frame.flags & FIN else b"")
            case "data":
                return data_frame(frame.stream, frame.payload, frame.flags)
            case _:
                return b""

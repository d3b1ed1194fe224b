"""Just enough WebSocket (RFC 6455) to be the far end of `kubectl exec`, `attach` and `port-forward`.

Remote command streams are multiplexed by a first byte: 0 stdin, 1 stdout, 2 stderr, 3 the final Status, 4 terminal
size; with v5.channel.k8s.io, 255 followed by a channel's number closes that channel.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import trio

from lbproxy.demo.connection import Connection
from lbproxy.demo.exchange import Exchange
from lbproxy.demo.spdy import SpdyEcho
from lbproxy.demo.store import encode

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STDIN, STDOUT, STATUS, CLOSE_CHANNEL = 0, 1, 3, 255
MAX_FRAME = 16 * 1024 * 1024


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


@dataclass(frozen=True, slots=True)
class Frame:
    opcode: int
    payload: bytes


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame as a server sends it: final, not masked."""
    head = bytes([0x80 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 1 << 16:
        return head + b"\x7e" + len(payload).to_bytes(2) + payload
    return head + b"\x7f" + len(payload).to_bytes(8) + payload


class FrameReader:
    """Bytes in, frames out. Raises `ValueError` for a frame larger than `MAX_FRAME`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start])
        if size > MAX_FRAME:
            raise ValueError(f"a frame of {size} bytes")
        mask = b""
        if buffer[1] & 0x80:
            mask, start = bytes(buffer[start : start + 4]), start + 4
        if len(buffer) < start + size:
            return None
        payload = bytes(buffer[start : start + size])
        opcode = buffer[0] & 0x0F
        del buffer[: start + size]
        return Frame(opcode, _unmask(payload, mask) if mask else payload)


def _unmask(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    size = len(payload)
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)


class Far(Protocol):
    """The far end of a connection: messages in, frames out. After `finished` nothing more is wanted."""

    finished: bool

    def opened(self) -> bytes: ...

    def message(self, opcode: int, payload: bytes) -> bytes: ...


class Echo:
    """Whole messages come back as they are."""

    def __init__(self) -> None:
        self.finished = False

    def opened(self) -> bytes:
        return b""

    def message(self, opcode: int, payload: bytes) -> bytes:
        return frame(opcode, payload)


class SpdyTunnel(Echo):
    """SPDY inside binary messages."""

    def __init__(self, inner: SpdyEcho) -> None:
        super().__init__()
        self._inner = inner

    def message(self, opcode: int, payload: bytes) -> bytes:
        answer = self._inner.feed(payload)
        return frame(Opcode.BINARY, answer) if answer else b""


class Command(Echo):
    """A command that prints its words, then its input, and ends well."""

    def __init__(self, greeting: bytes, *, stdin: bool) -> None:
        super().__init__()
        self._greeting = greeting
        self._stdin = stdin

    def opened(self) -> bytes:
        said = _channel(STDOUT, self._greeting)
        return said if self._stdin else said + self._end()

    def message(self, opcode: int, payload: bytes) -> bytes:
        if payload[:1] == bytes([CLOSE_CHANNEL]):
            return self._end()
        return _channel(STDOUT, payload[1:]) if payload[:1] == bytes([STDIN]) else b""

    def _end(self) -> bytes:
        self.finished = True
        status = encode({"metadata": {}, "status": "Success"})
        return _channel(STATUS, status) + frame(Opcode.CLOSE, (1000).to_bytes(2))


def _channel(number: int, payload: bytes) -> bytes:
    return frame(Opcode.BINARY, bytes([number]) + payload)


async def serve(exchange: Exchange, protocol: str, far: Far) -> None:
    """Shake hands, then let `far` answer until one side closes."""
    key = exchange.request.header("sec-websocket-key")
    if not key:
        await exchange.respond(400, b"Sec-WebSocket-Key required\n")
        return
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))]
    if protocol:
        headers.append(("Sec-WebSocket-Protocol", protocol))
    connection = exchange.connection
    try:
        data = await exchange.switch(headers)
        await _converse(connection, data, far)
        await connection.finish()
    except (OSError, ValueError, zlib.error, trio.ClosedResourceError):
        connection.reset()


async def _converse(connection: Connection, data: bytes, far: Far) -> None:
    reader = FrameReader()
    await connection.send(far.opened())
    while not far.finished:
        for received in reader.feed(data):
            match received.opcode:
                case Opcode.CLOSE:
                    await connection.send(frame(Opcode.CLOSE, received.payload))
                    return
                case Opcode.PING:
                    await connection.send(frame(Opcode.PONG, received.payload))
                case Opcode.PONG:
                    pass
                case _ if not far.finished:
                    await connection.send(far.message(received.opcode, received.payload))
        if not far.finished:
            data = await connection.receive()
            if not data:
                return

"""Just enough WebSocket (RFC 6455) to be the far end of `kubectl exec` and `attach`.

Remote command streams are multiplexed by a first byte: 0 stdin, 1 stdout, 2 stderr, 3 the final Status, 4 terminal
size; with v5.channel.k8s.io, 255 followed by a channel's number closes that channel.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import trio

from lbproxy.demo.exchange import Exchange
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


async def serve(exchange: Exchange, protocol: str | None, offered: list[str]) -> None:
    """Shake hands, then echo. `protocol` None: not a remote command, so whole messages are echoed."""
    key = exchange.request.header("sec-websocket-key")
    if not key:
        await exchange.respond(400, b"Sec-WebSocket-Key required\n")
        return
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))]
    chosen = protocol or next((name for name in offered if name), None)
    if chosen:
        headers.append(("Sec-WebSocket-Protocol", chosen))
    connection = exchange.connection
    try:
        data = await exchange.switch(headers)
        await _converse(exchange, data, command=protocol is not None)
        await connection.finish()
    except (OSError, ValueError, trio.ClosedResourceError):
        connection.reset()


async def _converse(exchange: Exchange, data: bytes, *, command: bool) -> None:
    connection, reader = exchange.connection, FrameReader()
    if command:
        words = " ".join(exchange.request.query.get("command", ["attach"]))
        await connection.send(_channel(STDOUT, f"{exchange.server}: {words}\n".encode()))
        if not exchange.request.flag("stdin"):
            await _say_goodbye(exchange)
            return
    while True:
        for received in reader.feed(data):
            if received.opcode == Opcode.CLOSE:
                await connection.send(frame(Opcode.CLOSE, received.payload))
                return
            if command and received.payload[:1] == bytes([CLOSE_CHANNEL]):
                await _say_goodbye(exchange)
                return
            await _echo(exchange, received, command=command)
        data = await connection.receive()
        if not data:
            return


async def _echo(exchange: Exchange, received: Frame, *, command: bool) -> None:
    if received.opcode == Opcode.PING:
        await exchange.connection.send(frame(Opcode.PONG, received.payload))
    elif received.opcode == Opcode.PONG:
        return
    elif not command:
        await exchange.connection.send(frame(received.opcode, received.payload))
    elif received.payload[:1] == bytes([STDIN]):
        await exchange.connection.send(_channel(STDOUT, received.payload[1:]))


async def _say_goodbye(exchange: Exchange) -> None:
    status = encode({"metadata": {}, "status": "Success"})
    await exchange.connection.send(_channel(STATUS, status) + frame(Opcode.CLOSE, (1000).to_bytes(2)))


def _channel(number: int, payload: bytes) -> bytes:
    return frame(Opcode.BINARY, bytes([number]) + payload)

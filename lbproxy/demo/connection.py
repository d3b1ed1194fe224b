"""One accepted connection: a non-blocking socket with synchronous sends, in the clear or under TLS.

trio's own streams have no "send what goes now" and so cost a task switch per send; a watch with a thousand watchers
needs the same bytes handed to a thousand sockets in one loop. Hence `feed`: what the kernel does not take at once
waits in `pending` until somebody awaits `flush`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

import trio

RECEIVE_SIZE = 64 * 1024
LINGER_SECONDS = 1.0
"""How long `finish` waits for the peer's FIN: closing with unread bytes would turn our FIN into an RST."""


class Connection:
    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._tls = _Tls(tls) if tls is not None else None
        self._flushing = trio.Lock()
        self.pending = bytearray()
        self.broken = False
        """A send failed: the peer is gone. Reads will say so too."""
        self.closed = False

    @property
    def peer(self) -> str:
        try:
            address = self._sock.getpeername()
        except OSError:
            return "gone"
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) and address else "unix"

    @property
    def flushing(self) -> bool:
        return self._flushing.locked()

    @property
    def sock(self) -> socket.socket:
        return self._sock

    async def handshake(self) -> None:
        """Raises `ssl.SSLError` or `ConnectionError` where the client does not speak TLS with us."""
        if self._tls is None:
            return
        while True:
            done = self._tls.handshake()
            self._push(self._tls.outgoing())
            await self.flush()
            if done:
                return
            data = await self._receive_raw()
            if not data:
                raise ConnectionResetError("closed during the TLS handshake")
            self._tls.receive(data)

    async def receive(self) -> bytes:
        """The next bytes, or b"" at the end. Raises `OSError` (`ConnectionResetError`, …, `ssl.SSLError` too)."""
        if self._tls is None:
            return await self._receive_raw()
        while True:
            data = self._tls.read()
            if data is not None:
                return data
            raw = await self._receive_raw()
            if not raw:
                return b""
            self._tls.receive(raw)

    async def _receive_raw(self) -> bytes:
        while True:
            try:
                data = self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            await trio.lowlevel.checkpoint()
            return data

    def feed(self, data: bytes) -> None:
        """Send now what the kernel takes and keep the rest; never blocks, never raises."""
        if self._tls is not None:
            try:
                self._tls.write(data)
            except ssl.SSLError:  # the peer has sent an alert
                self.broken = True
                return
            data = self._tls.outgoing()
        self._push(data)

    def _push(self, data: bytes) -> None:
        if self.closed or self.broken:
            return
        if self.pending:
            self.pending += data
            return
        sent = self._send_now(data)
        if sent < len(data):
            self.pending += memoryview(data)[sent:]

    def _send_now(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.broken = True
            self.pending.clear()
            return len(data)

    async def flush(self) -> None:
        """Wait until everything fed so far is with the kernel, or the connection is broken or closed."""
        if not self.pending:
            return
        async with self._flushing:
            while self.pending and not self.closed:
                try:
                    await trio.lowlevel.wait_writable(self._sock)
                except trio.ClosedResourceError:
                    return
                del self.pending[: self._send_now(self.pending)]

    async def send(self, data: bytes) -> None:
        """Send it all. Raises `BrokenPipeError` when the peer is gone."""
        self.feed(data)
        await self.flush()
        if self.broken:
            raise BrokenPipeError("the client is gone")

    async def finish(self) -> None:
        """Orderly end: everything sent, a FIN, and what the peer still sends read and dropped for a moment."""
        await self.flush()
        if self._tls is not None:
            self._push(self._tls.close_notify())
        with contextlib.suppress(OSError, trio.ClosedResourceError), trio.move_on_after(LINGER_SECONDS):
            self._sock.shutdown(socket.SHUT_WR)
            while await self._receive_raw():
                pass
        self.close()

    def reset(self) -> None:
        """Disappear with an RST."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.pending.clear()
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()


class _Tls:
    """TLS between two memory buffers, so that one synchronous call encrypts and the socket stays ours."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def receive(self, data: bytes) -> None:
        self._incoming.write(data)

    def read(self) -> bytes | None:
        """Plain bytes, b"" after close_notify, None where more ciphertext is needed."""
        try:
            return self._object.read(RECEIVE_SIZE)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""

    def write(self, data: bytes) -> None:
        if data:
            self._object.write(data)

    def outgoing(self) -> bytes:
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()
        return self._outgoing.read()

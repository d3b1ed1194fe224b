"""Backends that behave in one way each, on loopback, for the health checks' tests."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from functools import partial

import trio

from lbproxy.control.probe import Probe
from lbproxy.core.config import Address, CheckType, HealthCheck
from lbproxy.core.health import CheckResult

Serve = Callable[[trio.abc.Stream], Awaitable[None]]

FAILING_BODY = (
    b"[+]ping ok\n[-]etcd failed: reason withheld\n[-]shutdown failed: reason withheld\nreadyz check failed\n"
)
MAX_REQUEST = 65536
Backend = AbstractAsyncContextManager[Address]


# Budgets that no passing stage comes near; a test that waits for one to run out shortens that one.
PATIENT = HealthCheck(type=CheckType.HTTP, connect_timeout=10.0, timeout=10.0)


def at(port: int, host: str = "127.0.0.1") -> Address:
    return Address(f"{host}:{port}", host, port, "inet6" if ":" in host else "inet")


async def read_request(stream: trio.abc.Stream) -> bytes:
    """The request, up to the end of its head; whatever has come if the client closes first."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST:
        data = await stream.receive_some(4096)
        if not data:
            break
        request += data
    return request


async def wait_closed(stream: trio.abc.Stream) -> None:
    """Until the client has closed the connection: these backends do nothing before."""
    try:
        while await stream.receive_some(4096):
            pass
    except trio.BrokenResourceError:
        pass


def answering(*pieces: bytes, requests: list[bytes] | None = None, hold: bool = False) -> Serve:
    """Reads the request, sends the pieces one by one, and closes; with `hold`, only after the client has."""

    async def serve(stream: trio.abc.Stream) -> None:
        request = await read_request(stream)
        if requests is not None:
            requests.append(request)
        for piece in pieces:
            await stream.send_all(piece)
        if hold:
            await wait_closed(stream)

    return serve


def blurting(*pieces: bytes) -> Serve:
    """Sends the pieces upon whatever the client says first, and closes when the client has."""

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(4096)
        for piece in pieces:
            await stream.send_all(piece)
        assert isinstance(stream, trio.SocketStream)
        await stream.send_eof()
        await wait_closed(stream)

    return serve


def http_answer(status: int, body: bytes = b"ok") -> bytes:
    return b"HTTP/1.1 %d Some Words\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


OK = http_answer(200)


def endless(head: bytes, piece: bytes) -> Serve:
    async def serve(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(head)
        for _ in range(100_000):
            await stream.send_all(piece)

    return serve


async def half_close(stream: trio.abc.Stream) -> None:
    """Ends its own direction at once, and leaves the other open."""
    assert isinstance(stream, trio.SocketStream)
    await stream.send_eof()
    await wait_closed(stream)


async def reset(stream: trio.abc.Stream) -> None:
    assert isinstance(stream, trio.SocketStream)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def reset_after_request(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await reset(stream)


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Address]:
    """A backend at a port of its own for the length of a block."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            wrapped: trio.abc.Stream = stream
            if tls is not None:
                wrapped = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
            async with stream:
                await serve(wrapped)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the check has left, as it may at any time

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=host))
        yield at(listeners[0].socket.getsockname()[1], host)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def refusing() -> AsyncIterator[Address]:
    """A port that is held, so that nobody else listens there either."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield at(held.getsockname()[1])


@asynccontextmanager
async def deaf() -> AsyncIterator[Address]:
    """A listener whose accept queue is full: the kernel drops every further SYN."""
    with closing(socket.socket()) as listener, closing(socket.socket()) as one, closing(socket.socket()) as two:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (one, two):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield at(listener.getsockname()[1])


@asynccontextmanager
async def alerting(tls: ssl.SSLContext) -> AsyncIterator[Address]:
    """A TLS server that tells a client why it is refused, which trio's own does not; it serves one client."""

    def serve_one() -> None:
        connection, _ = listener.accept()
        with connection.dup() as raw:
            raw.settimeout(30)
            with tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as wrapped:
                wrapped.settimeout(30)
                with suppress(ssl.SSLError):
                    wrapped.do_handshake()
                    wrapped.recv(4096)
                raw.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    while raw.recv(4096):  # or the kernel would reset, and the alert might be lost
                        pass

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve_one)
            yield at(listener.getsockname()[1])


async def check(address: Address, config: HealthCheck) -> CheckResult:
    with trio.fail_after(30):
        return await Probe(config, address).run()

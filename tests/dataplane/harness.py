"""A real worker in the test's own trio run, between scripted backends and scripted clients on loopback."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from lbproxy.core import config as c
from lbproxy.core import messages
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.timers import TICK
from lbproxy.dataplane.worker import Worker

Handler = Callable[[trio.SocketStream], Awaitable[None]]

PATIENCE = 10.0  # seconds a test waits for what must happen


def address(host: str, port: int) -> c.Address:
    return c.Address(f"{host}:{port}", host, port)


class Clock:
    """A worker's, which can run ahead of the real one."""

    def __init__(self) -> None:
        self.ahead = 0.0  # seconds

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@dataclass
class Balancer:
    """A running worker."""

    worker: Worker
    control: socket.socket
    port: int
    log_fd: int
    configure: messages.Configure
    clock: Clock
    listening: socket.socket
    ended: trio.Event = field(default_factory=trio.Event)
    _log: bytes = field(default=b"")

    async def run(self) -> None:
        await self.worker.run()
        self.ended.set()

    def advance(self, seconds: float) -> None:
        """Let so much time go by for the worker's timers, at once."""
        clock, reactor = self.clock, self.worker._reactor
        end = clock.ahead + seconds
        while clock.ahead < end:
            clock.ahead = min(clock.ahead + TICK, end)
            reactor.refresh()
        reactor.settle()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    def reconfigure(self, config: c.Config) -> None:
        """A reload. A listener that is new to the worker listens on the test's socket, too."""
        known = {(one.name, one.mode, one.pool) for one in self.configure.config.listeners}
        fds: list[int] = []
        listen = []
        for one in config.listeners:
            if (one.name, one.mode, one.pool) in known:
                listen.append((messages.KEPT,))
            else:
                listen.append((len(fds),))
                fds.append(self.listening.fileno())
        self.configure = replace(self.configure, config=config, generation=self.configure.generation + 1)
        message = messages.Reconfigure(self.configure.generation, config, tuple(listen), None, ())
        socket.send_fds(self.control, [messages.encode(message)], fds)

    @property
    def listener(self) -> messages.ListenerStats:
        return self.worker.stats().listeners[0]

    @property
    def backends(self) -> list[messages.BackendStats]:
        return self.worker.stats().pools["p"]

    async def log_line(self) -> dict[str, Any]:
        """The next access-log line."""
        while b"\n" not in self._log:
            await trio.lowlevel.wait_readable(self.log_fd)
            self._log += os.read(self.log_fd, 65536)
        line, _, self._log = self._log.partition(b"\n")
        parsed: dict[str, Any] = json.loads(line)
        return parsed

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to become true, with the test's patience as its bound."""
        with trio.fail_after(PATIENCE):
            while not condition():
                await trio.sleep(0.01)


class Lab:
    """What a test asks for its parts."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._cleanup: list[Callable[[], None]] = []

    async def backend(self, handler: Handler) -> c.Address:
        """A server on a free port that runs `handler` for each connection."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._nursery.start_soon(trio.serve_listeners, _guarded(handler), listeners)
        return address("127.0.0.1", listeners[0].socket.getsockname()[1])

    def refusing(self) -> c.Address:
        """An address where nobody listens."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        self._cleanup.append(sock.close)  # bound and not listening: nobody else can take the port meanwhile
        return address("127.0.0.1", port)

    def black_hole(self) -> c.Address:
        """An address that never answers a connect: its accept queue is full."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        self._cleanup.append(sock.close)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
            self._cleanup.append(filler.close)
        return address("127.0.0.1", sock.getsockname()[1])

    async def balance(
        self,
        mode: str,
        *backends: c.Address,
        timeouts: c.Timeouts | None = None,
        http: c.Http | None = None,
        max_connections: int = 1000,
        **pool: Any,
    ) -> Balancer:
        """A worker with one listener in front of the backends."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        port = listening.getsockname()[1]
        config = c.Config(
            listeners=(
                c.Listener(
                    "api",
                    (address("127.0.0.1", port),),
                    c.Mode(mode),
                    "p",
                    max_connections=max_connections,
                    timeouts=timeouts or c.Timeouts(),
                ),
            ),
            pools=(replace(c.Pool("p", tuple(c.Backend(backend) for backend in backends)), **pool),),
            log=c.Log(
                access=c.AccessLog(at=(c.LogPoint.OPEN, c.LogPoint.CLOSE) if mode == "tcp" else (c.LogPoint.CLOSE,))
            ),
            http=http or c.Http(),
        )
        return await self._start(config, listening)

    async def successor(self, other: Balancer) -> Balancer:
        """Another worker of the same configuration, that accepts on the same socket."""
        return await self._start(other.configure.config, other.listening.dup())

    async def _start(self, config: c.Config, listening: socket.socket) -> Balancer:
        port = listening.getsockname()[1]
        control, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        channel.setblocking(False)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        configure = messages.Configure(config, ((listening.dup().detach(),),), writer)
        clock = Clock()
        worker = Worker(configure, channel, Reactor(clock=clock, linger=0.002))  # its peers are in the same thread
        self._cleanup += [listening.close, control.close, channel.close]
        self._cleanup += [lambda: os.close(reader), lambda: os.close(writer)]
        balancer = Balancer(worker, control, port, reader, configure, clock, listening)
        self._nursery.start_soon(balancer.run)
        await trio.lowlevel.wait_readable(control)
        assert isinstance(messages.decode(control.recv(messages.MAX_MESSAGE)), messages.Ready)
        return balancer

    def at_end(self, function: Callable[[], None]) -> None:
        """Call it when the test is over."""
        self._cleanup.append(function)

    def close(self) -> None:
        for function in reversed(self._cleanup):
            function()


def _guarded(handler: Handler) -> Handler:
    async def serve(stream: trio.SocketStream) -> None:
        with stream.socket:
            try:
                await handler(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                return

    return serve


def reset(stream: trio.SocketStream) -> None:
    """Close with RST."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def read_all(stream: trio.SocketStream) -> bytes:
    """Everything up to FIN. Raises BrokenResourceError on RST."""
    data = bytearray()
    with trio.fail_after(PATIENCE):
        while chunk := await stream.receive_some(65536):
            data += chunk
    return bytes(data)


async def read_exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    with trio.fail_after(PATIENCE):
        while len(data) < count:
            chunk = await stream.receive_some(count - len(data))
            assert chunk, f"FIN after {bytes(data)!r}"
            data += chunk
    return bytes(data)


async def read_head(stream: trio.SocketStream) -> bytes:
    """Up to and with CRLF CRLF, and not a byte more."""
    data = bytearray()
    with trio.fail_after(PATIENCE):
        while not data.endswith(b"\r\n\r\n"):
            chunk = await stream.receive_some(1)
            assert chunk, f"FIN after {bytes(data)!r}"
            data += chunk
    return bytes(data)


def connects(stats: messages.BackendStats) -> int:
    """Dials that succeeded."""
    return sum(count for (result, _bucket), count in stats.dials.items() if result == "ok")

"""Sessions that are open while lbproxy reloads and is upgraded, compared to the byte: kubectl's, and one of HTTP/2."""

from __future__ import annotations

import random
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded

from lbproxy.demo import life
from lbproxy.demo.api import commit_to
from lbproxy.demo.server import SimulatedApiserver
from lbproxy.demo.store import Store
from tests.demo.test_kubectl import Kubectl
from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy
from tests.e2e.test_reload import pids, reload
from tests.e2e.test_upgrade import settled

MODES = ("http", "tcp")


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)


class Site:
    """One lbproxy with a listener in each mode; `steps` are what is done to it."""

    def __init__(self, directory: Path, *backends: str, check: str = "http") -> None:
        self.directory = directory
        self.ports = {mode: free_port() for mode in MODES}
        self._backends = ", ".join(f"'{one}'" for one in backends)
        self._check = check
        self.lb: Lbproxy

    def text(self, *, changed: bool = False) -> str:
        connect, more = ("2s", f", {{address: '127.0.0.1:{free_port()}', backup: true}}") if changed else ("1s", "")
        listeners = "".join(
            f"  - {{name: {mode}, bind: '127.0.0.1:{port}', mode: {mode}, pool: p}}\n"
            for mode, port in self.ports.items()
        )
        check = f"health_check: {{type: {self._check}}}"
        return (
            f"workers: 2\nlog: {{access: off}}\ntimeouts: {{connect: {connect}}}\nlisteners:\n{listeners}"
            f"pools: {{p: {{backends: [{self._backends}{more}], rebalance: off, {check}}}}}\n"
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        manager = lbproxy(self.directory, self.text())
        self.lb = await trio.to_thread.run_sync(manager.__enter__)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(manager.__exit__, None, None, None)

    async def reload(self) -> None:
        line = await trio.to_thread.run_sync(reload, self.lb, self.directory, self.text(changed=True))
        assert len(line["changes"]) > 1
        assert line["changes"][-1].startswith("backend 127.0.0.1"), line["changes"]

    async def upgrade(self) -> None:
        before = set(await trio.to_thread.run_sync(pids, self.lb))
        self.lb.process.send_signal(signal.SIGUSR2)
        with trio.fail_after(PATIENCE):
            while not await trio.to_thread.run_sync(settled, self.lb, 1):
                await trio.sleep(0.05)
        assert set(await trio.to_thread.run_sync(pids, self.lb)) & before == {self.lb.process.pid}

    async def live(self, progress: Callable[[], int]) -> None:
        """A reload that changes something, and an upgrade; before, between and after them something must go on."""
        await _moves(progress)
        for step in (self.reload, self.upgrade):
            await step()
            await _moves(progress)


async def _moves(progress: Callable[[], int]) -> None:
    seen = progress()
    await until(lambda: progress() >= seen + 3)


# -- kubectl -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def apiservers(nursery: trio.Nursery) -> list[SimulatedApiserver]:
    store = Store()
    life.furnish(store)
    made = [SimulatedApiserver(store, name) for name in "ab"]
    for one in made:
        await nursery.start(one.serve)
    nursery.start_soon(partial(life.live, store, commit_to(store), interval=0.05))
    return made


def site_of(apiservers: list[SimulatedApiserver], directory: Path) -> Site:
    return Site(directory, *(one.url.removeprefix("http://") for one in apiservers))


@pytest.mark.parametrize("websockets", ["true", "false"])
@pytest.mark.parametrize("mode", MODES)
async def test_an_exec_session(
    tmp_path: Path, apiservers: list[SimulatedApiserver], nursery: trio.Nursery, mode: str, websockets: str
) -> None:
    """Lines go in and come back before, during and after each step; every byte is there, and kubectl ends well."""
    site = site_of(apiservers, tmp_path)
    kubectl = Kubectl(f"http://127.0.0.1:{site.ports[mode]}", tmp_path)
    kubectl.environment["KUBECTL_REMOTE_COMMAND_WEBSOCKETS"] = websockets
    sent, got = bytearray(), bytearray()
    generator = random.Random(3)

    async def write(process: trio.Process) -> None:
        assert process.stdin is not None
        for number in range(100_000):
            line = b"%d %s\n" % (number, generator.randbytes(generator.randrange(1, 2000)).hex().encode())
            with trio.CancelScope(shield=True):  # whole lines
                await process.stdin.send_all(line)
            sent.extend(line)
            await until(lambda: len(sent) - len(got) < 65536)
            await trio.sleep(0.01)

    async def read(process: trio.Process) -> None:
        assert process.stdout is not None
        async for data in process.stdout:
            got.extend(data)

    async with site.running(), trio.open_nursery() as here:
        command = [*kubectl.command, "exec", "-i", "web-1", "--", "cat"]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kubectl.environment
        )
        try:
            here.start_soon(read, process)
            async with trio.open_nursery() as writing:
                writing.start_soon(write, process)
                await site.live(lambda: got.count(b"\n"))
                writing.cancel_scope.cancel()
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
    greeting, newline, echoed = bytes(got).partition(b"\n")
    assert greeting + newline in (b"a: cat\n", b"b: cat\n")
    assert echoed == bytes(sent)
    assert sent.count(b"\n") > 20
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_kubectl_get_watch(
    tmp_path: Path, apiservers: list[SimulatedApiserver], nursery: trio.Nursery, mode: str
) -> None:
    """One watch, one connection, each event once and in order."""
    site = site_of(apiservers, tmp_path)
    kubectl = Kubectl(f"http://127.0.0.1:{site.ports[mode]}", tmp_path)
    text = bytearray()
    words = ("get", "-n", "kube-system", "configmap", "heartbeat", "-w", "-o", 'jsonpath={.data.beats}{"\\n"}')

    async def read(process: trio.Process) -> None:
        assert process.stdout is not None
        async for data in process.stdout:
            text.extend(data)

    async with site.running(), trio.open_nursery() as here:
        process = await here.start(kubectl.run, *words)
        here.start_soon(read, process)
        await site.live(lambda: text.count(b"\n"))
        assert process.returncode is None
        assert sum(one.counts["WATCH configmaps"] for one in apiservers) == 1
        here.cancel_scope.cancel()
    beats = [int(line) for line in text.split(b"\n")[:-1]]
    assert beats == list(range(beats[0], beats[0] + len(beats)))
    nursery.cancel_scope.cancel()


# -- HTTP/2 ------------------------------------------------------------------------------------------------------------

IN_FLIGHT = 32768  # bytes: less than a window of HTTP/2, so that nobody waits for an update of it


async def echo_h2(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    """A server with one stream, which sends DATA frames back as they come."""
    tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    await tls.do_handshake()
    assert tls.selected_alpn_protocol() == "h2"
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    await tls.send_all(connection.data_to_send())
    while data := await tls.receive_some(65536):
        for event in connection.receive_data(data):
            if isinstance(event, RequestReceived):
                connection.send_headers(event.stream_id, [(":status", "200")])
            elif isinstance(event, DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                connection.send_data(event.stream_id, event.data)
            elif isinstance(event, StreamEnded):
                connection.end_stream(event.stream_id)
        await tls.send_all(connection.data_to_send())


class Stream:
    """A client's only one."""

    def __init__(self, tls: trio.SSLStream[trio.SocketStream]) -> None:
        self._tls = tls
        self._connection = H2Connection(H2Configuration(client_side=True))
        self._sending = trio.Lock()
        self.sent, self.got, self.frames, self.status = bytearray(), bytearray(), 0, b""

    async def begin(self) -> None:
        self._connection.initiate_connection()
        headers = [(":method", "POST"), (":path", "/echo"), (":scheme", "https"), (":authority", "127.0.0.1")]
        self._connection.send_headers(1, headers)
        await self._tls.send_all(self._connection.data_to_send())

    async def write(self) -> None:
        """Until it is cancelled."""
        generator = random.Random(4)
        for _ in range(1_000_000):
            data = generator.randbytes(generator.randrange(1, 8192))
            self.sent += data
            with trio.CancelScope(shield=True):  # whole frames
                self._connection.send_data(1, data)
                await self._flush()
            await until(lambda: len(self.sent) - len(self.got) < IN_FLIGHT)
            await trio.sleep(0.002)

    async def end(self) -> None:
        self._connection.end_stream(1)
        await self._flush()

    async def read(self) -> None:
        """Up to its end."""
        while data := await self._tls.receive_some(65536):
            for event in self._connection.receive_data(data):
                if isinstance(event, ResponseReceived):
                    self.status = dict(event.headers)[b":status"]
                elif isinstance(event, DataReceived):
                    self._connection.acknowledge_received_data(event.flow_controlled_length, 1)
                    self.got += event.data
                    self.frames += 1
                elif isinstance(event, StreamEnded):
                    return
            await self._flush()

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._connection.data_to_send():
                await self._tls.send_all(data)


async def test_http2_through_tcp_mode(tmp_path: Path, nursery: trio.Nursery) -> None:
    """One long stream inside TLS, DATA frames both ways all the time."""
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    for context in (ours, theirs):
        context.set_alpn_protocols(["h2"])
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(partial(trio.serve_listeners, partial(_guarded, context=theirs), listeners))
    site = Site(tmp_path, f"127.0.0.1:{port}", check="none")
    async with site.running(), await trio.open_tcp_stream("127.0.0.1", site.ports["tcp"]) as sock:
        tls = trio.SSLStream(sock, ours, server_hostname="127.0.0.1", https_compatible=True)
        stream = Stream(tls)
        await stream.begin()
        assert tls.selected_alpn_protocol() == "h2"
        async with trio.open_nursery() as here:
            here.start_soon(stream.read)
            async with trio.open_nursery() as writing:
                writing.start_soon(stream.write)
                await site.live(lambda: stream.frames)
                writing.cancel_scope.cancel()
            await stream.end()
            here.cancel_scope.deadline = trio.current_time() + PATIENCE
    assert stream.status == b"200"
    assert stream.frames > 50
    assert stream.got == stream.sent
    nursery.cancel_scope.cancel()


async def _guarded(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    try:
        await echo_h2(stream, context)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return

"""`lbproxy demo` as a user runs it: it serves, survives a kill -9, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from lbproxy.demo.process import Child
from tests.demo.client import Address, ask, connected
from tests.demo.test_kubectl import Kubectl
from tests.e2e.process import free_port

MAPS = "/api/v1/namespaces/kube-system/configmaps"


class Demo:
    def __init__(self, child: Child, address: Address) -> None:
        self.child = child
        self.address = address
        self.said = ""

    async def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in what it has printed since the last one."""
        with trio.fail_after(30):
            while (match := re.search(pattern, self.said)) is None:
                line = await self.child.next_line()
                assert line is not None, f"ended without {pattern!r}: {self.said}"
                self.said += line + "\n"
        self.said = self.said[match.end() :]
        return match


def descendants(pid: int) -> set[int]:
    """All processes below `pid`, itself included."""
    found = {pid}
    for status in Path("/proc").glob("[0-9]*/task/[0-9]*/children"):
        if int(status.parts[2]) == pid:
            for child in status.read_text().split():
                found |= descendants(int(child))
    return found


@asynccontextmanager
async def demo(*flags: str) -> AsyncIterator[Demo]:
    port = free_port()
    command = [sys.executable, "-m", "lbproxy", "demo", "--listen", f"127.0.0.1:{port}"]
    command += ["--admin", f"127.0.0.1:{free_port()}", *flags]
    child = Child(command, stop_signal=signal.SIGINT, stdout=subprocess.PIPE)
    try:
        yield Demo(child, ("127.0.0.1", port))
    finally:
        await child.stop()


async def test_an_apiserver_is_killed_requests_go_on_and_a_watch_resumes_elsewhere() -> None:
    """Not one request fails, the watch has no gap and no double, and the server comes back."""
    async with demo("--restart-after", "0.5", "--every", "0.2") as running:
        pids = {name: int(pid) for name, pid in [(await running.wait_for(PID)).groups() for _ in "abc"]}
        await running.wait_for("Ctrl-C stops everything")
        servers = {(await ask(running.address, "GET", "/version")).headers["x-demo-apiserver"] for _ in range(12)}
        assert servers == {"a", "b", "c"}

        victim, beats = await watch_through_a_death(running, pids)
        counted = [int(event["object"]["data"]["beats"]) for event in beats]
        assert counted == list(range(counted[0], counted[0] + 3))
        back = await running.wait_for(f"apiserver {victim} is back on (127.0.0.1:\\d+), pid (\\d+)")
        host, _, port = back[1].partition(":")
        assert (await ask((host, int(port)), "GET", "/readyz")).code == 200


async def watch_through_a_death(running: Demo, pids: dict[str, int]) -> tuple[str, list[Any]]:
    """Three events of a watch whose server is killed after the first; the server's name and the events."""
    revision = (await ask(running.address, "GET", MAPS)).json["metadata"]["resourceVersion"]
    async with connected(running.address) as watcher:
        head = await watcher.open_watch(f"{MAPS}?watch=1&resourceVersion={revision}")
        victim = head.headers["x-demo-apiserver"]
        beats = await watcher.events(1)
        os.kill(pids[victim], signal.SIGKILL)
        await running.wait_for(f"apiserver {victim} was killed by SIGKILL; back in 0.5 s")
        for _ in range(10):
            assert (await ask(running.address, "GET", "/version")).code == 200
        beats += await watcher.events(2)  # in the same response, as if nothing had happened
    return victim, beats


@pytest.mark.parametrize("websockets", ["true", "false"])
async def test_kubectl_through_the_balancer(tmp_path: Path, websockets: str) -> None:
    """Requests, a watch, and the streams that upgrade: exec and port-forward, over WebSocket and over SPDY."""
    async with demo("--every", "0.2") as running, trio.open_nursery() as nursery:
        await running.wait_for("Ctrl-C stops everything")
        kubectl = Kubectl(f"http://127.0.0.1:{running.address[1]}", tmp_path)
        kubectl.environment["KUBECTL_REMOTE_COMMAND_WEBSOCKETS"] = websockets
        kubectl.environment["KUBECTL_PORT_FORWARD_WEBSOCKETS"] = websockets
        assert "web-1" in await kubectl("get", "pods", "-A")
        assert await kubectl("create", "configmap", "x", "--from-literal=a=1") == "configmap/x created\n"
        assert await kubectl("delete", "configmap", "x") == 'configmap "x" deleted\n'
        assert (await kubectl("exec", "-i", "web-1", "--", "cat", stdin=b"hello\n")).endswith(": cat\nhello\n")
        watch = await nursery.start(kubectl.run, "get", "-n", "kube-system", "configmap", "heartbeat", "-w")
        forward = await nursery.start(kubectl.run, "port-forward", "pod/web-1", "--address", "127.0.0.1", ":80")
        with trio.fail_after(20):
            seen = b""
            while seen.count(b"heartbeat") < 3:
                seen += await watch.stdout.receive_some()
            said = bytes(await forward.stdout.receive_some()).decode()
            stream = await trio.open_tcp_stream("127.0.0.1", int(said.partition(" -> ")[0].rpartition(":")[2]))
            async with stream:
                await stream.send_all(b"there")
                assert await stream.receive_some() == b"there"
        nursery.cancel_scope.cancel()


async def test_kubectl_notices_neither_a_reload_nor_an_upgrade(tmp_path: Path) -> None:
    """A watch and a forwarded port go on in the connections that they have; exec is in test_live_streams.py."""
    async with demo("--every", "0.2") as running, trio.open_nursery() as nursery:
        await running.wait_for("Ctrl-C stops everything")
        kubectl = Kubectl(f"http://127.0.0.1:{running.address[1]}", tmp_path)
        watch = await nursery.start(kubectl.run, "get", "-n", "kube-system", "configmap", "heartbeat", "-w")
        forward = await nursery.start(kubectl.run, "port-forward", "pod/web-1", "--address", "127.0.0.1", ":80")
        with trio.fail_after(30):
            said = bytes(await forward.stdout.receive_some()).decode()
            stream = await trio.open_tcp_stream("127.0.0.1", int(said.partition(" -> ")[0].rpartition(":")[2]))
            async with stream:
                for change in ("none", signal.SIGHUP, signal.SIGUSR2, signal.SIGUSR2):
                    await stream.send_all(b"there")
                    assert await stream.receive_some() == b"there"
                    seen = b""
                    while seen.count(b"heartbeat") < 3:
                        seen += await watch.stdout.receive_some()
                    if change is signal.SIGHUP:
                        config = config_directory(descendants(running.child.pid)) / "lb.yaml"
                        config.write_text(config.read_text() + "timeouts: {connect: 2s}\n")
                    if isinstance(change, signal.Signals):
                        await _signal_balancer(running, change)
        assert watch.returncode is forward.returncode is None
        nursery.cancel_scope.cancel()


async def _signal_balancer(running: Demo, number: signal.Signals) -> None:
    """Send a signal, and wait until it has been obeyed: an upgrade, until the old workers are gone."""
    (pid,) = (pid for pid in descendants(running.child.pid) if _is_balancer(pid))
    workers = descendants(pid) - {pid}
    os.kill(pid, number)
    if number is signal.SIGHUP:
        await running.wait_for("lbproxy: reloaded .*: listener .*: timeouts changed")
    while number is signal.SIGUSR2 and workers & descendants(pid):
        await trio.sleep(0.05)


def _is_balancer(pid: int) -> bool:
    return b"-c" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


async def test_ctrl_c_leaves_no_process_and_no_file() -> None:
    async with demo() as running:
        await running.wait_for("Ctrl-C stops everything")
        everybody = descendants(running.child.pid)
        assert len(everybody) >= 6  # the demo, three apiservers, the balancer and its worker
        directory = config_directory(everybody)
        assert directory.exists()
        os.kill(running.child.pid, signal.SIGINT)
        with trio.fail_after(15):
            assert await running.child.wait() == 0
        assert not directory.exists()
        assert everybody & {int(name) for name in os.listdir("/proc") if name.isdigit()} == set()


def config_directory(pids: set[int]) -> Path:
    """Where the demo keeps its files: from the balancer's `-c FILE`."""
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in pids]
    (config,) = {words[words.index(b"-c") + 1].decode() for words in commands if b"-c" in words}
    return Path(config).parent


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with trio.fail_after(20):
            done = await trio.run_process(
                [sys.executable, "-m", "lbproxy", "demo", "--listen", address],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        f"lbproxy demo: {address} is taken or not an address of this host; choose another with --listen HOST:PORT"
    ]


PID = r"apiserver (\w)  http://\S+  pid (\d+)"

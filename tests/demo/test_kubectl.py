"""Real kubectl against one simulated apiserver: what it shows and what it asks for."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from lbproxy.demo import life
from lbproxy.demo.server import SimulatedApiserver
from lbproxy.demo.store import Store
from lbproxy.demo.watch import End
from tests.demo.client import until
from tests.demo.test_watch import watching
from tests.programs import require


@pytest.fixture
def store() -> Store:
    made = Store()
    life.furnish(made)
    return made


class Kubectl:
    def __init__(self, url: str, home: Path) -> None:
        self.command = [require("kubectl"), "-s", url]
        self.environment = {"HOME": str(home), "PATH": os.environ["PATH"]}

    async def __call__(self, *words: str, stdin: bytes = b"") -> str:
        """What it prints; fails where it fails."""
        with trio.fail_after(30):
            done = await trio.run_process(
                [*self.command, *words],
                stdin=stdin,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                env=self.environment,
            )
        text = done.stdout.decode()
        assert done.returncode == 0, text
        return text

    async def run(self, *words: str, task_status: trio.TaskStatus[trio.Process]) -> None:
        """Run until cancelled; its standard output is a pipe of the process handed out."""
        command = [*self.command, *words]
        process = partial(trio.run_process, stdout=subprocess.PIPE, env=self.environment, check=False)
        async with trio.open_nursery() as nursery:
            task_status.started(await nursery.start(process, command))


@pytest.fixture
async def kubectl(server: SimulatedApiserver, tmp_path: Path) -> Kubectl:
    return Kubectl(server.url, tmp_path)


async def test_looking_around(kubectl: Kubectl) -> None:
    assert (await kubectl("get", "ns")).split()[:5] == ["NAME", "STATUS", "AGE", "default", "Active"]
    pods = await kubectl("get", "pods", "-A", "--no-headers")
    assert pods.split()[:4] == ["default", "web-1", "1/1", "Running"]
    assert "leases" in await kubectl("api-resources")
    assert json.loads(await kubectl("get", "--raw", "/version"))["minor"] == "32"
    assert "Server Version: v1.32.0+lbproxy-demo" in await kubectl("version")
    assert "web-1" in await kubectl("get", "all")
    assert "node-1" in await kubectl("describe", "pod", "web-1")


async def test_changing_things(kubectl: Kubectl, server: SimulatedApiserver) -> None:
    assert await kubectl("create", "configmap", "x", "--from-literal=a=1") == "configmap/x created\n"
    assert await kubectl("annotate", "configmap", "x", "k=v") == "configmap/x annotated\n"
    body = json.loads(await kubectl("get", "configmap", "x", "-o", "json"))
    assert (body["data"], body["metadata"]["annotations"]) == ({"a": "1"}, {"k": "v"})
    assert await kubectl("delete", "configmap", "x") == 'configmap "x" deleted\n'
    assert server.counts["POST configmaps"] == server.counts["DELETE configmaps"] == 1
    assert await kubectl("create", "namespace", "n") == "namespace/n created\n"


async def test_applying_a_manifest_twice(kubectl: Kubectl) -> None:
    manifest = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"z"},"data":{"k":"%s"}}'
    assert await kubectl("apply", "-f", "-", stdin=manifest % b"1") == "configmap/z created\n"
    assert await kubectl("apply", "-f", "-", stdin=manifest % b"2") == "configmap/z configured\n"
    assert await kubectl("apply", "-f", "-", stdin=manifest % b"2") == "configmap/z unchanged\n"
    assert await kubectl("get", "configmap", "z", "-o", "jsonpath={.data.k}") == "2"


async def test_logs(kubectl: Kubectl) -> None:
    assert "line 0" in await kubectl("logs", "web-1", "--tail=1")


@pytest.mark.parametrize("websockets", ["true", "false"])
async def test_exec_over_websocket_and_over_spdy(kubectl: Kubectl, server: SimulatedApiserver, websockets: str) -> None:
    kubectl.environment["KUBECTL_REMOTE_COMMAND_WEBSOCKETS"] = websockets
    assert await kubectl("exec", "web-1", "--", "ls", "-l") == "a: ls -l\n"
    assert await kubectl("exec", "-i", "web-1", "--", "cat", stdin=b"hello\n") == "a: cat\nhello\n"
    assert server.counts["GET pods/exec" if websockets == "true" else "POST pods/exec"] == 2


@pytest.mark.parametrize("websockets", ["true", "false"])
async def test_port_forward_tunnelled_and_over_spdy(kubectl: Kubectl, websockets: str) -> None:
    kubectl.environment["KUBECTL_PORT_FORWARD_WEBSOCKETS"] = websockets
    async with trio.open_nursery() as nursery:
        process = await nursery.start(kubectl.run, "port-forward", "pod/web-1", "--address", "127.0.0.1", ":80")
        with trio.fail_after(10):
            said = bytes(await process.stdout.receive_some()).decode()
            port = int(said.partition(" -> ")[0].rpartition(":")[2])
            for text in (b"one", b"two"):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    await stream.send_all(text)
                    assert await stream.receive_some() == text
        process.terminate()


def is_watching(server: SimulatedApiserver, number: int) -> bool:
    """Whether the `number`th watch of deployments has come and is running."""
    return server.counts["WATCH deployments"] == number and len(server.hub.watchers()) == 1


async def test_a_reflector_resumes_after_a_clean_end_without_a_list(
    kubectl: Kubectl, server: SimulatedApiserver
) -> None:
    """`rollout status` is a client-go informer; it lists once, however often its watch ends well."""
    deployment = json.loads(await kubectl("get", "deployment", "web", "-o", "json"))
    deployment["status"]["updatedReplicas"] = 1
    await kubectl("replace", "-f", "-", stdin=json.dumps(deployment).encode())
    server.counts.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kubectl, "rollout", "status", "deployment/web")
        for number in range(1, 4):
            await until(partial(is_watching, server, number))
            await kubectl("annotate", "deployment", "web", "--overwrite", f"n={number}")
            server.end_watches(End.CLEAN)
        await until(partial(is_watching, server, 4))
        deployment["status"]["updatedReplicas"] = 3
        del deployment["metadata"]["resourceVersion"]
        await kubectl("replace", "-f", "-", stdin=json.dumps(deployment).encode())
    assert server.counts["LIST deployments"] == 1
    assert server.counts["WATCH deployments"] == 4


async def test_a_watch_prints_what_happens(kubectl: Kubectl, server: SimulatedApiserver) -> None:
    async with trio.open_nursery() as nursery:
        process = await nursery.start(kubectl.run, "get", "configmaps", "-w", "--no-headers")
        await watching(server, 1)
        await kubectl("create", "configmap", "seen", "--from-literal=a=1")
        text = b""
        with trio.fail_after(10):
            while text.count(b"\n") < 2:
                text += await process.stdout.receive_some()
        process.terminate()
    assert [line.split()[:2] for line in text.decode().splitlines()] == [["settings", "1"], ["seen", "1"]]

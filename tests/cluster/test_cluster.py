"""The main job: kubectl, controller-manager and scheduler work through lbproxy, whatever happens to one master.

What is promised of a master that dies at once: no new connection and no new request fails, and who is reconnecting
anyway (controllers, reflectors) goes on. A request that the dying master is executing is lost with it, in any L4
balancer; so the kill falls between the calls of the kubectl loops, and everything else in the tests is free-running.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.cluster.conftest import Balancer
from tests.cluster.control_plane import BALANCER_HTTP, BALANCER_TLS, ControlPlane

pytestmark = pytest.mark.cluster

DOORS = {"tcp": f"https://{BALANCER_TLS}", "http": f"http://{BALANCER_HTTP}"}
CALL_TIMEOUT = 30.0  # seconds for one kubectl call


@dataclass
class Kubectl:
    """kubectl through one of lbproxy's listeners."""

    config: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *words: str) -> list[str]:
        return ["kubectl", f"--kubeconfig={self.config}", *words]

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """What it prints; fails where it fails."""
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=CALL_TIMEOUT, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    async def call(self, *words: str) -> str:
        with trio.fail_after(CALL_TIMEOUT):
            done = await trio.run_process(
                self.command(*words), capture_stdout=True, capture_stderr=True, check=False, env=dict(os.environ)
            )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr.decode()}"
        return done.stdout.decode()


@pytest.fixture(params=["tcp", "http"])
def kubectl(request: pytest.FixtureRequest, cluster: ControlPlane, balancer: Balancer) -> Kubectl:
    return Kubectl(cluster.kubeconfig("admin", DOORS[request.param]))


def test_everyday_work(kubectl: Kubectl, request: pytest.FixtureRequest) -> None:
    namespace = f"everyday-{request.node.callspec.id}"
    assert "kube-system" in kubectl("get", "namespaces")
    assert "configmaps" in kubectl("api-resources")
    assert json.loads(kubectl("get", "--raw", "/version"))["platform"].startswith("linux/")
    kubectl("create", "namespace", namespace)
    kubectl("-n", namespace, "create", "configmap", "one", "--from-literal=a=b")
    kubectl("-n", namespace, "annotate", "configmap", "one", "note=x y/z%20ä")
    kubectl("-n", namespace, "label", "configmap", "one", "color=blue")
    assert "one" in kubectl("-n", namespace, "get", "configmap", "-l", "color=blue")
    manifest = kubectl("-n", namespace, "get", "configmap", "one", "-o", "json")
    assert json.loads(manifest)["metadata"]["annotations"]["note"] == "x y/z%20ä"
    kubectl("-n", namespace, "replace", "-f", "-", stdin=manifest)
    kubectl("-n", namespace, "patch", "configmap", "one", "-p", '{"data":{"a":"c"}}')
    assert kubectl("-n", namespace, "get", "configmap", "one", "-o", "jsonpath={.data.a}") == "c"
    deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 0, selector: "
    deployment += (
        "{matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}"
    )
    kubectl("-n", namespace, "apply", "-f", "-", stdin=deployment)
    kubectl("-n", namespace, "delete", "deployment", "web", "--wait=true")
    kubectl("-n", namespace, "delete", "configmap", "one")
    kubectl("delete", "namespace", namespace, "--wait=false")


def test_the_client_certificate_reaches_the_apiserver(cluster: ControlPlane, balancer: Balancer) -> None:
    master = Kubectl(cluster.kubeconfig("admin", DOORS["tcp"]))
    assert master("auth", "can-i", "*", "*").strip() == "yes"
    scheduler = Kubectl(cluster.kubeconfig("kube-scheduler", DOORS["tcp"]))
    assert "can" not in scheduler("get", "pods", "-A")
    refused = subprocess.run(
        scheduler.command("delete", "namespace", "default"), capture_output=True, text=True, check=False, timeout=30
    )
    assert 'User "system:kube-scheduler" cannot delete' in refused.stderr


def test_a_large_object(kubectl: Kubectl, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_text("x" * 900_000)  # a ConfigMap may have 1 MiB
    kubectl("create", "configmap", "large", f"--from-file={blob}")
    fetched = json.loads(kubectl("get", "configmap", "large", "-o", "json"))
    assert fetched["data"]["blob"] == blob.read_text()
    kubectl("delete", "configmap", "large")


def test_a_watch_shows_each_change_when_it_happens(kubectl: Kubectl) -> None:
    with subprocess.Popen(
        kubectl.command("get", "configmap", "-w", "--no-headers", "-o", "custom-columns=:metadata.name,:data.n"),
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        try:
            assert watch.stdout is not None
            kubectl("create", "configmap", "watched", "--from-literal=n=0")
            for number in range(1, 6):
                kubectl("patch", "configmap", "watched", "-p", json.dumps({"data": {"n": str(number)}}))
            seen: list[str] = []
            while len(seen) < 6:
                name, value = watch.stdout.readline().split()
                if name == "watched":
                    seen.append(value)
            assert seen == [str(number) for number in range(6)]
            assert watch.poll() is None
        finally:
            watch.kill()
    kubectl("delete", "configmap", "watched")


@dataclass
class Work:
    """A kubectl loop: create, read, delete every second one. Every acknowledged change must be there afterwards."""

    kubectl: Kubectl
    name: str
    calls: int = 0
    kept: list[str] = field(default_factory=list)
    between_calls: trio.Lock = field(default_factory=trio.Lock)

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            one = f"{self.name}-{number}"
            await self._call("create", "configmap", one, "--from-literal=a=b")
            self.kept.append(one)
            await self._call("get", "configmap", one)
            if number % 2:
                await self._call("delete", "configmap", one)
                self.kept.remove(one)

    async def _call(self, *words: str) -> None:
        async with self.between_calls:
            with trio.CancelScope(shield=True):  # a cancelled test must not leave a change half known
                await self.kubectl.call(*words)
            self.calls += 1

    def check(self) -> None:
        """What was acknowledged is there, once, and nothing else is."""
        names = self.kubectl("get", "configmap", "-o", "jsonpath={.items[*].metadata.name}").split()
        assert sorted(name for name in names if name.startswith(self.name + "-")) == sorted(self.kept)


@dataclass
class Leaders:
    """Who leads, and how often that has changed."""

    kubectl: Kubectl

    def now(self) -> dict[str, tuple[str, int]]:
        leases = json.loads(self.kubectl("-n", "kube-system", "get", "leases", "-o", "json"))["items"]
        return {
            lease["metadata"]["name"]: (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"])
            for lease in leases
            if lease["metadata"]["name"] in ("kube-controller-manager", "kube-scheduler")
        }

    def wait(self) -> dict[str, tuple[str, int]]:
        deadline = time.monotonic() + 60
        while len(leaders := self.now()) < 2:
            assert time.monotonic() < deadline, f"no leaders: {leaders}"
            time.sleep(0.2)
        return leaders


MANAGERS = ("kube-controller-manager0", "kube-controller-manager1", "kube-scheduler0", "kube-scheduler1")


@pytest.fixture(scope="module")
def managers(cluster: ControlPlane, balancer: Balancer) -> Leaders:
    cluster.start_managers()
    leaders = Leaders(Kubectl(cluster.kubeconfig("admin", DOORS["tcp"])))
    leaders.wait()
    return leaders


async def under_work(cluster: ControlPlane, managers: Leaders, name: str, disturb: object) -> None:
    """Run kubectl loops and watches through both listeners while `disturb(works)` happens."""
    before = managers.wait()
    works = [Work(Kubectl(cluster.kubeconfig("admin", url)), f"{name}-{mode}") for mode, url in DOORS.items()]
    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work.run)
            nursery.start_soon(rewatch, work)
        await disturb(works)  # type: ignore[operator]
        nursery.cancel_scope.cancel()
    for work in works:
        work.check()
        assert work.calls > 5
    assert managers.now() == before, "a leader changed"
    for manager in MANAGERS:
        assert cluster.processes[manager].poll() is None, f"{manager} has ended"


async def rewatch(work: Work) -> None:
    """`kubectl get -w` again and again, as a person would: it may end with its connection, but never with an error."""
    while True:
        done = await trio.run_process(
            work.kubectl.command("get", "configmap", "-w", "--request-timeout=60s"),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        await trio.sleep(0.1)


async def calls_more(works: list[Work], count: int) -> None:
    """Wait until each loop has made so many more calls: progress, not time, shows that it works."""
    wanted = [work.calls + count for work in works]
    with trio.fail_after(120):
        while any(work.calls < goal for work, goal in zip(works, wanted, strict=True)):
            await trio.sleep(0.05)


async def test_a_master_killed_and_back(cluster: ControlPlane, balancer: Balancer, managers: Leaders) -> None:
    async def disturb(works: list[Work]) -> None:
        await calls_more(works, 6)
        for work in works:
            await work.between_calls.acquire()
        cluster.kill_master(1)
        for work in works:
            work.between_calls.release()
        out_after = await trio.to_thread.run_sync(balancer.wait_health, 1, "down")
        print(f"\nkilled master out of both pools after {out_after:.1f} s")
        assert out_after < 5
        await calls_more(works, 20)
        # Longer than a leader may go without renewing: whoever lost touch would have stepped down by now.
        await trio.sleep(16)
        before = balancer.backend("apiservers", 1)["total"]
        cluster.start_master(1)
        await trio.to_thread.run_sync(balancer.wait_health, 1, "up", 60)
        await calls_more(works, 12)
        assert balancer.backend("apiservers", 1)["total"] > before, "the returned master is not used"
        assert balancer.backend("doors", 1)["active"] >= 0

    await under_work(cluster, managers, "killed", disturb)


async def test_a_rolling_restart(cluster: ControlPlane, balancer: Balancer, managers: Leaders) -> None:
    async def disturb(works: list[Work]) -> None:
        for number in range(3):
            await calls_more(works, 4)
            cluster.processes[f"apiserver{number}"].terminate()
            await trio.to_thread.run_sync(balancer.wait_health, number, "not_ready", 5)
            await trio.to_thread.run_sync(cluster.stop_master, number)
            cluster.start_master(number)
            await trio.to_thread.run_sync(balancer.wait_health, number, "up", 60)
        await calls_more(works, 6)

    await under_work(cluster, managers, "rolling", disturb)

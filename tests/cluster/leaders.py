"""Who leads among the controller-managers and schedulers, as their leases say, and a rollout that needs them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import partial

import trio

from tests.cluster.balancer import until
from tests.cluster.kubectl import CALL_TIMEOUT, Kubectl

LEASES = ("kube-controller-manager", "kube-scheduler")

# A replica that no node runs: the rollout goes on until somebody asks for none.
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "nowhere.invalid/web"}]},
        },
    },
}


@dataclass(frozen=True, slots=True)
class Lease:
    holder: str
    transitions: int  # how often it has changed hands
    renewed: str  # the moment, as the holder wrote it


@dataclass(frozen=True, slots=True)
class Leaders:
    kubectl: Kubectl

    def leases(self) -> dict[str, Lease]:
        items = json.loads(self.kubectl("-n", "kube-system", "get", "leases", "-o", "json"))["items"]
        specs = {item["metadata"]["name"]: item["spec"] for item in items}
        return {
            name: Lease(specs[name]["holderIdentity"], specs[name]["leaseTransitions"], specs[name]["renewTime"])
            for name in LEASES
            if name in specs
        }

    def wait_elected(self) -> None:
        until(lambda: len(self.leases()) == len(LEASES), "both leaders are elected", 60)

    def terms(self) -> dict[str, tuple[str, int]]:
        """Who leads, and for the how manieth time that was decided: the same as long as no lease is lost."""
        return {name: (lease.holder, lease.transitions) for name, lease in self.leases().items()}

    def wait_renewed(self, since: dict[str, Lease]) -> None:
        """Wait until both leases have been renewed. A leader that cannot do so for 10 s gives up and ends."""

        def renewed() -> bool:
            return all(lease.renewed != since[name].renewed for name, lease in self.leases().items())

        until(renewed, "both leases are renewed", 15)


@dataclass
class Rollout:
    """`kubectl rollout status`: client-go's reflector, which must outlive every watch that it opens."""

    kubectl: Kubectl
    said: str = ""

    def begin(self) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps(DEPLOYMENT))

    async def run(self) -> None:
        command = self.kubectl.command("rollout", "status", "deployment/web", "--timeout=10m")
        start = partial(trio.run_process, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(start, command)
            assert process.stdout is not None
            async for chunk in process.stdout:
                self.said += chunk.decode()
        assert process.returncode == 0, self.said

    async def finish(self) -> None:
        """Ask for no replica; the controllers and the reflector must notice."""
        assert "successfully rolled out" not in self.said
        await self.kubectl.call("scale", "deployment", "web", "--replicas=0")
        with trio.fail_after(CALL_TIMEOUT):
            while "successfully rolled out" not in self.said:
                await trio.sleep(0.05)

"""kubectl, whichever is on the PATH, through one of lbproxy's doors."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.cluster.control_plane import BALANCER_HTTP, BALANCER_TLS, ControlPlane

DOORS = {"tcp": f"https://{BALANCER_TLS}", "http": f"http://{BALANCER_HTTP}"}
CALL_TIMEOUT = 30.0  # seconds for one call


@dataclass(frozen=True, slots=True)
class Kubectl:
    config: Path
    cache: Path  # what it remembers of an apiserver; in the home directory it would outlive the cluster
    namespace: str = "default"

    @classmethod
    def through(cls, door: str, cluster: ControlPlane, *, user: str = "admin", namespace: str = "default") -> Kubectl:
        config = cluster.kubeconfig(user, DOORS[door])
        return cls(config, cluster.directory / f"kubectl-cache-{door}", namespace)

    def command(self, *words: str) -> list[str]:
        flags = [f"--kubeconfig={self.config}", f"--cache-dir={self.cache}", f"--namespace={self.namespace}"]
        return ["kubectl", *flags, *words]

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """What it prints; fails where it fails."""
        done = self.attempt(*words, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def attempt(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=CALL_TIMEOUT, check=False
        )

    async def call(self, *words: str) -> str:
        """The same beside others."""
        with trio.fail_after(CALL_TIMEOUT):
            done = await trio.run_process(self.command(*words), capture_stdout=True, capture_stderr=True, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr.decode()}"
        return done.stdout.decode()

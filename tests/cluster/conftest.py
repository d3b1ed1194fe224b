from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import BALANCER_HTTP, BALANCER_TLS, MASTERS, ControlPlane, binaries
from tests.programs import require

ADMIN = "127.0.0.1:19180"

CONFIG = """
listeners:
  - {{name: api, bind: "{tls}", mode: tcp, pool: apiservers}}
  - {{name: plain, bind: "{http}", mode: http, pool: doors}}
pools:
  apiservers:
    balance: least_conn
    backends: [{masters}]
    health_check: {{type: https, path: /readyz, ca_file: {ca}}}
  doors:
    backends: [{doors}]
    health_check: {{type: http, path: /readyz}}
admin: {{bind: "{admin}"}}
"""


@dataclass
class Balancer:
    """The real lbproxy process in front of the cluster."""

    process: subprocess.Popen[bytes]
    log: Path

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{ADMIN}/status", timeout=5) as answer:
            parsed: dict[str, Any] = json.load(answer)
            return parsed

    def backend(self, pool: str, number: int) -> dict[str, Any]:
        pools = {one["name"]: one["backends"] for one in self.status()["pools"]}
        found: dict[str, Any] = pools[pool][number]
        return found

    def wait_health(self, number: int, health: str, seconds: float = 30) -> float:
        """Wait until both pools see a master so; how long it took."""
        began = time.monotonic()
        while any(self.backend(pool, number)["health"] != health for pool in ("apiservers", "doors")):
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"master {number} is not {health} after {seconds} s: {self.status()['pools']}")
            time.sleep(0.05)
        return time.monotonic() - began


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Etcd and three masters, for all tests of the session."""
    for program in ("kubectl", "etcd"):
        require(program)
    if not (binaries() / "kube-apiserver").exists():
        pytest.fail(f"no Kubernetes in {binaries()}: run tests/cluster/build.sh (make test-cluster does)")
    plane = ControlPlane(tmp_path_factory.mktemp("cluster"))
    try:
        plane.up()
        yield plane
    finally:
        plane.down()


@pytest.fixture(scope="session")
def balancer(cluster: ControlPlane) -> Iterator[Balancer]:
    """lbproxy as an operator runs it."""
    config = cluster.directory / "lb.yaml"
    config.write_text(
        CONFIG.format(
            tls=BALANCER_TLS,
            http=BALANCER_HTTP,
            admin=ADMIN,
            masters=", ".join(f"{host}:6443" for host in MASTERS),
            doors=", ".join(f"{host}:8080" for host in MASTERS),
            ca=cluster.directory / "ca.crt",
        )
    )
    log = cluster.directory / "lbproxy.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lbproxy", "-c", str(config)], stdout=output, stderr=subprocess.STDOUT
        )
    running = Balancer(process, log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                running.wait_health(0, "up", 10)
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        for number in (1, 2):
            running.wait_health(number, "up", 10)
        yield running
        assert process.poll() is None, log.read_text()
        assert running.status()["workers"][0]["ready"]
        assert b"internal error" not in log.read_bytes()
    finally:
        process.kill()
        process.wait()

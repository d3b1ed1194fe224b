"""lbproxy as an operator runs it: a process, a file, /status to look at and a log to read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import BALANCER_HTTP, BALANCER_TLS, MASTERS

ADMIN = "127.0.0.1:19180"
POOLS = ("apiservers", "doors")
POLL = 0.05  # seconds between two looks at a process of another

# least_conn, so that a master that has come back is used at once and seen to be.
CONFIG = """
listeners:
  - {{name: api, bind: "{tls}", mode: tcp, pool: apiservers}}
  - {{name: plain, bind: "{http}", mode: http, pool: doors}}
pools:
  apiservers:
    balance: least_conn
    backends: [{masters}]
    health_check: {{type: https, path: /readyz, ca_file: {files}/ca.crt, client_cert: {files}/admin.crt,
                    client_key: {files}/admin.key}}
  doors:
    balance: least_conn
    backends: [{doors}]
    health_check: {{type: http, path: /readyz}}
admin: {{bind: "{admin}"}}
"""


def until(condition: Callable[[], bool], what: str, seconds: float) -> float:
    """Poll until the condition holds; how long that took. Raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(POLL)
    return time.monotonic() - began


class Balancer:
    def __init__(self, files: Path) -> None:
        self.log = files / "lbproxy.log"
        config = files / "lb.yaml"
        config.write_text(
            CONFIG.format(
                tls=BALANCER_TLS,
                http=BALANCER_HTTP,
                admin=ADMIN,
                masters=", ".join(f"{host}:6443" for host in MASTERS),
                doors=", ".join(f"{host}:8080" for host in MASTERS),
                files=files,
            )
        )
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lbproxy", "-c", str(config)], stdout=output, stderr=subprocess.STDOUT
            )

    def wait_ready(self) -> None:
        """Wait until it answers and sees all masters up."""
        until(self._answers, f"lbproxy answers: {self.log.read_text()}", 20)
        for number in range(len(MASTERS)):
            self.wait_health(number, "up")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.status()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """SIGTERM; what still runs after that is killed."""
        self.process.terminate()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:  # it drains the connections that clients still hold
            self.process.kill()
            self.process.wait()

    def upgrade(self) -> None:
        """Become another process image, and wait until the workers before it have handed everything over."""
        before = self.workers()
        self.process.send_signal(signal.SIGUSR2)

        def settled() -> bool:
            try:
                status = self.status()
            except OSError:  # in between
                return False
            return not status["handing_over"] and not {one["pid"] for one in status["workers"]} & set(before)

        until(settled, "the upgrade is over", 60)

    # -- what it says --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{ADMIN}/status", timeout=5) as answer:
            parsed: dict[str, Any] = json.load(answer)
            return parsed

    def workers(self) -> list[int]:
        """The processes that accept connections now."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["ready"]]

    def backend(self, pool: str, number: int) -> dict[str, Any]:
        """What /status says of a master in a pool."""
        pools = {one["name"]: one["backends"] for one in self.status()["pools"]}
        found: dict[str, Any] = pools[pool][number]
        return found

    def totals(self, number: int) -> list[int]:
        """Connections and requests that a master has been given so far, by pool."""
        return [self.backend(pool, number)["total"] for pool in POOLS]

    def wait_health(self, number: int, health: str, seconds: float = 30) -> float:
        """Wait until both pools see a master so; how long it took."""

        def reached() -> bool:
            return all(self.backend(pool, number)["health"] == health for pool in POOLS)

        return until(reached, f"master {number} is {health}", seconds)

    def wait_avoided(self, number: int, seconds: float) -> float:
        """Wait until no pool sends anything new to a master, for whatever reason; how long it took."""

        def avoided() -> bool:
            return not any(self.backend(pool, number)["eligible"] for pool in POOLS)

        return until(avoided, f"master {number} is avoided", seconds)

    def wait_used(self, number: int, since: list[int], seconds: float = 30) -> None:
        """Wait until a master has been given more than `since` (totals) in both pools."""

        def used() -> bool:
            return all(now > then for now, then in zip(self.totals(number), since, strict=True))

        until(used, f"master {number} is used again", seconds)

    def entries(self) -> list[dict[str, Any]]:
        """Its log, line by line. Every line is JSON: a traceback would not be."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def failures(self) -> list[dict[str, Any]]:
        """Connections that reached no master, and requests that lbproxy answered with an error of its own.

        kubectl hides the second kind: it waits for as long as Retry-After says, and asks again.
        """
        accesses = (one for one in self.entries() if one["event"] in ("close", "request"))
        return [one for one in accesses if one.get("backend") is None or one.get("status", 200) in (502, 503, 504)]

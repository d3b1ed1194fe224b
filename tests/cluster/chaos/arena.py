"""A cluster in a network of its own, a balancer in front of it, and managers that work through that."""

from __future__ import annotations

import hashlib
import json
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.cluster.balancer import until
from tests.cluster.chaos import contenders
from tests.cluster.chaos.contenders import Contender
from tests.cluster.chaos.faults import Scenario
from tests.cluster.chaos.namespace import Namespace
from tests.cluster.chaos.outcome import LEASES, Outcome
from tests.cluster.chaos.plane import ChaosPlane
from tests.cluster.chaos.programs import Programs, installed
from tests.cluster.chaos.round import START_TIMEOUT, Round
from tests.cluster.control_plane import MASTERS

EXTRA = "127.0.0.1:19181"  # where an additional listener listens
RELOAD_EVERY = 0.7  # seconds
BACKEND_DEAD, BACKEND_DRAINED = "DD", "dD"  # lbproxy's termination codes
LEASE_PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


@dataclass
class Arena:
    plane: ChaosPlane
    contender: Contender
    programs: Programs
    balancer: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.plane.directory / f"{self.contender.name}.conf"

    @contextmanager
    def configured(self, key: str, before: str) -> Iterator[None]:
        """lbproxy with one more key in its lb.yaml, before another one of the same level; and without it again."""
        text = self.config.read_text()
        indent = " " * (text.index(f"{before}:") - text.rindex("\n", 0, text.index(f"{before}:")) - 1)
        self._reconfigure(text.replace(f"{before}:", f"{key}\n{indent}{before}:", 1))
        try:
            yield
        finally:
            self._reconfigure(text)

    def _reconfigure(self, text: str) -> None:
        self.config.write_text(text)
        self.balancer.send_signal(signal.SIGHUP)
        wanted = hashlib.sha256(text.encode()).hexdigest()
        until(lambda: bool(self.status()["config"]["sha256"] == wanted), "lbproxy has taken it on", START_TIMEOUT)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """lbproxy takes on another configuration again and again: a listener more, another weight, other timeouts."""
        text = self.config.read_text()
        extra = f'{{name: extra, bind: "{EXTRA}", mode: http, pool: apiservers}}]'
        other = text.replace("}]", "}, " + extra, 1).replace("backends:", "slow_start: 3s\n    backends:")
        stop = threading.Event()

        def reload() -> None:
            texts = cycle((other, text))
            while not stop.wait(RELOAD_EVERY):
                self.config.write_text(next(texts))
                self.balancer.send_signal(signal.SIGHUP)

        thread = threading.Thread(target=reload)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.config.write_text(text)
            self.balancer.send_signal(signal.SIGHUP)

    def reloads(self) -> int:
        """How many times lbproxy has taken on a configuration that was another one."""
        log = (self.plane.directory / f"{self.contender.name}.log").read_text()
        return log.count('"listener extra ')

    def serves(self) -> bool:
        """Whether somebody who comes to the balancer now is served."""
        return _answers(self.contender, self.plane.directory)

    def status(self) -> dict[str, Any]:
        """lbproxy's, with its counters."""
        with urllib.request.urlopen(f"http://{contenders.ADMIN}/status", timeout=5) as answer:
            parsed: dict[str, Any] = json.load(answer)
            return parsed

    def log(self) -> list[dict[str, Any]]:
        """lbproxy's, entry by entry; what it says about its configuration on the way is no JSON."""
        lines = (self.plane.directory / f"{self.contender.name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def verdicts(self, since: int) -> list[str]:
        """What checks have found out after their first look, from that entry of the log on."""
        return [one["health"] for one in self.log()[since:] if one["event"] == "health" and one["was"] != "unknown"]

    def ended(self, since: int) -> list[dict[str, Any]]:
        """The connections and requests that lbproxy ended because their master was dead, or had to drain."""
        return [one for one in self.log()[since:] if one.get("end") in (BACKEND_DEAD, BACKEND_DRAINED)]

    def round(self, scenario: Scenario) -> Outcome:
        """One scenario, with all masters well before it. Raises TimeoutError if they are not."""
        self._restart_masters_for(scenario)
        self.plane.wait_all_ready()
        began = time.time()
        with self._managers():
            return Round(self.plane, self.contender, scenario, self.programs, began).run()

    @contextmanager
    def _managers(self) -> Iterator[None]:
        """New ones for each round, which have listed everything since the last start of a master.

        A master that has just started does not know versions older than itself. After a round in which all of them were
        restarted, an idle watch of the round before could not go on at any of them, whatever a balancer does.
        """
        for lease in LEASES:  # of those who were here before: nobody should wait until they expire
            self.plane.call("DELETE", f"{LEASE_PATH}/{lease}")
        self.plane.start_managers(2, self.contender.front)
        try:
            until(self._elected, "the leaders are elected", START_TIMEOUT)
            yield
        finally:
            self.plane.stop_managers()

    def _restart_masters_for(self, scenario: Scenario) -> None:
        """Masters with another shutdown delay, one after the other so that nobody loses a lease."""
        if scenario.shutdown_delay == self.plane.shutdown_delay:
            return
        self.plane.shutdown_delay = scenario.shutdown_delay
        for number in range(len(MASTERS)):
            self.plane.kill_master(number)
            self.plane.bring_back(number)

    def _elected(self) -> bool:
        leases = [self.plane.call("GET", f"{LEASE_PATH}/{lease}").get("spec") for lease in LEASES]
        return all(isinstance(spec, dict) and spec.get("holderIdentity") for spec in leases)


@contextmanager
def arena(contender: Contender, directory: Path) -> Iterator[Arena]:
    """A new cluster, and a balancer before it. Needs root, and installs the clients: inside there is no network."""
    programs = installed()
    with Namespace() as network:
        plane = ChaosPlane(directory, network)
        try:
            plane.up()
            with contenders.running(contender, directory, lambda: _answers(contender, directory)) as balancer:
                yield Arena(plane, contender, programs, balancer)
        finally:
            plane.down()


def _answers(contender: Contender, directory: Path) -> bool:
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    try:
        with urllib.request.urlopen(f"{contender.front}/readyz", timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False

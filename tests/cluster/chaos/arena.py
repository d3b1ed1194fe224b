"""A cluster in a network of its own, a balancer in front of it, and managers that work through that."""

from __future__ import annotations

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
LEASE_PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


@dataclass
class Arena:
    plane: ChaosPlane
    contender: Contender
    programs: Programs
    balancer: subprocess.Popen[bytes]

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """lbproxy takes on another configuration again and again: a listener more, another weight, other timeouts."""
        config = self.plane.directory / f"{self.contender.name}.conf"
        text = config.read_text()
        extra = f'{{name: extra, bind: "{EXTRA}", mode: http, pool: apiservers}}]'
        other = text.replace("}]", "}, " + extra, 1).replace("backends:", "slow_start: 3s\n    backends:")
        stop = threading.Event()

        def reload() -> None:
            texts = cycle((other, text))
            while not stop.wait(RELOAD_EVERY):
                config.write_text(next(texts))
                self.balancer.send_signal(signal.SIGHUP)

        thread = threading.Thread(target=reload)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            config.write_text(text)
            self.balancer.send_signal(signal.SIGHUP)

    def reloads(self) -> int:
        """How many times lbproxy has taken on a configuration that was another one."""
        log = (self.plane.directory / f"{self.contender.name}.log").read_text()
        return log.count('"listener extra ')

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

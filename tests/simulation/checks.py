"""The control plane's part of a schedule."""

from __future__ import annotations

import socket
from collections.abc import Callable

from lbproxy.core import config as c
from lbproxy.core import messages
from lbproxy.core.health import CheckResult, Health, HealthMachine, Verdict
from lbproxy.dataplane.worker import Worker
from tests.simulation.apiserver import Master
from tests.simulation.network import World


class Checks:
    """The control plane's part: checks each master, and tells the worker."""

    def __init__(self, world: World, masters: list[Master], worker: Worker, control: socket.socket) -> None:
        self._world = world
        self._masters = masters
        self._worker = worker
        self._control = control
        self._config = c.HealthCheck()
        self.on_change: Callable[[], None] = lambda: None
        self.machines = [HealthMachine(self._config) for _ in masters]
        self._blamed: set[int] = set()
        self._turn = [0] * len(masters)
        self._fail_open = False
        self.recoveries: list[float] = []  # when somebody was ready again, and nobody had been
        self.stopped = False
        for index in range(len(masters)):
            self._check(index, 0)

    def hear(self) -> None:
        """The worker reports what failed in live traffic: check at once."""
        while True:
            try:
                message = messages.decode(self._control.recv(messages.MAX_MESSAGE))
            except BlockingIOError:
                return
            if isinstance(message, messages.BackendFailed):
                self._blamed.add(message.backend)
                self._turn[message.backend] += 1
                self._world.after(0.001, self._check, message.backend, self._turn[message.backend])

    def _check(self, index: int, turn: int) -> None:
        if turn == self._turn[index] and not self.stopped:
            result, took = self._masters[index].check()
            self._world.after(took, self._on_result, index, turn, result)

    def _on_result(self, index: int, turn: int, result: CheckResult) -> None:
        machine = self.machines[index]
        needed = not any(one.health is Health.UP for one in self.machines if one is not machine)
        change = machine.observe(result, needed=needed)
        clear = result.verdict is Verdict.UP and index in self._blamed
        if clear:
            self._blamed.discard(index)
        if change is not None or clear:
            if change is not None:
                self._world.tell(f"{self._masters[index].name} is found to be {machine.health.value}")
            outage = not any(peer.usable for peer in self._worker._pools["p"].peers)
            self._worker._take_health(messages.SetHealth("p", index, machine.health, clear))
            if outage and self._worker._pools["p"].peers[index].usable:
                self.recoveries.append(self._world.now)
            self.on_change()
        ready = any(one.health in (Health.UP, Health.UNKNOWN) for one in self.machines)
        fail_open = not ready and any(one.health is Health.NOT_READY for one in self.machines)
        if fail_open != self._fail_open:
            self._fail_open = fail_open
            self._worker._take_health(messages.SetFailOpen("p", fail_open))
        if turn == self._turn[index]:
            delay = machine.next_delay(self._world.random.random, needed=needed)
            self._world.after(delay, self._check, index, turn)

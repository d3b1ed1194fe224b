"""The operator's part of a schedule: a drain, and reloads in the middle of whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lbproxy.core import config as c
from lbproxy.core import messages
from lbproxy.dataplane.worker import Worker
from tests.simulation.network import World


class Operator:
    """`on_change` is called when the worker has another configuration."""

    def __init__(self, world: World, worker: Worker, config: c.Config, on_change: Callable[[], None]) -> None:
        self.config = config
        self.reloads = 0
        self._world = world
        self._worker = worker
        self._on_change = on_change

    @property
    def pool(self) -> c.Pool:
        return self.config.pools[0]

    def is_ready(self, index: int) -> bool:
        """Whether he has said nothing against it."""
        return self.pool.backends[index].state is c.BackendState.READY

    def drain(self, index: int) -> None:
        self._world.tell_fault(f"the operator drains {self.pool.backends[index].address.host}")
        self._set(index, c.BackendState.DRAIN)

    def make_ready(self) -> None:
        for index in range(len(self.pool.backends)):
            if not self.is_ready(index):
                self._world.tell_fault(f"the operator has {self.pool.backends[index].address.host} back")
                self._set(index, c.BackendState.READY)

    def reload(self) -> None:
        """Something is different, and nobody is to notice."""
        self._world.tell_fault("a reload")
        random = self._world.random
        algorithm = random.choice((c.Algorithm.ROUND_ROBIN, c.Algorithm.LEAST_CONN))
        backends = [replace(one, max_fails=random.choice((1, 3))) for one in self.pool.backends]
        self._take_on(replace(self.pool, balance=c.Balance(algorithm), backends=tuple(backends)))

    def _set(self, index: int, state: c.BackendState) -> None:
        backends = list(self.pool.backends)
        backends[index] = replace(backends[index], state=state)
        self._take_on(replace(self.pool, backends=tuple(backends)))

    def _take_on(self, pool: c.Pool) -> None:
        self.reloads += 1
        self.config = replace(self.config, pools=(pool,))
        listen = tuple(() for _ in self.config.listeners)
        self._worker._reconfigure(messages.Reconfigure(self.reloads, self.config, listen, None, ()), [])
        self._on_change()

"""Connections through a tcp listener: what the balancer may do to them, and what it must."""

from __future__ import annotations

from collections.abc import Callable

from lbproxy.core.config import Rebalance
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool
from lbproxy.core.termination import Termination
from lbproxy.dataplane.listener import Listener
from lbproxy.dataplane.tcp import TcpConnection
from tests.simulation.network import SimSocket, World

GRACE = 3.0  # seconds that others have to come back in, after an outage of all
SLACK = 1.0  # seconds: the wheel's ticks, the pauses between looks, and dials under way


class SimRelay(TcpConnection):
    """Tells how it ends."""

    __slots__ = ("_on_end",)

    def __init__(
        self, on_end: Callable[[Peer, Termination], None], listener: Listener, sock: SimSocket, number: int
    ) -> None:
        self._on_end = on_end
        super().__init__(listener, sock, f"10.1.{number // 250 % 250}.{number % 250}", 1024)  # type: ignore[arg-type]

    def on_end(self, termination: Termination) -> None:
        self._on_end(self.peer, termination)
        super().on_end(termination)


class Chronicle:
    """Since when each backend is to be left: it is drained, or not ready while another one is."""

    def __init__(
        self, world: World, pool: Pool, health: Callable[[int], Health], wanted: Callable[[int], bool]
    ) -> None:
        self.cut = self.drained = 0
        self._world = world
        self._pool = pool
        self._health = health
        self._wanted = wanted
        self._since: dict[int, float] = {}

    def note(self) -> None:
        """Health, or what the operator wants, may have changed."""
        indices = range(len(self._pool.peers))
        ready = [self._wanted(one) and self._health(one) in (Health.UP, Health.UNKNOWN) for one in indices]
        for index in indices:
            if ready[index] or not (any(ready) or not self._wanted(index)):
                self._since.pop(index, None)
            else:
                self._since.setdefault(index, self._world.now)

    def judge(self, peer: Peer, termination: Termination) -> str:
        """What is wrong with the end of a connection, or ""."""
        config, index = self._pool.config, peer.index
        waited = self._world.now - self._since.get(index, self._world.now)
        if termination is Termination.BACKEND_DEAD:
            self.cut += 1
            if self._health(index) is not Health.DOWN:
                return f"it is cut off {peer.address.host}, which is {self._health(index).value}"
        elif termination is Termination.BACKEND_DRAINED:
            self.drained += 1
            if waited < config.drain_timeout - 0.01:
                return f"it has to leave {peer.address.host} after {waited:.1f} s"
        elif termination is Termination.REBALANCED and config.rebalance is not Rebalance.ON:
            return "it is moved, and nobody has asked for that"
        return ""

    def overdue(self, listener: Listener) -> str:
        """A connection that should have left by now, or ""."""
        config = self._pool.config
        patience = config.drain_timeout + config.close_spread + GRACE + SLACK
        for index, since in self._since.items():
            peer = self._pool.peers[index]
            if self._world.now - since > patience and any(one.depends_on(peer) for one in listener.connections):
                return f"{peer.address.host} is to be left since {since - 1000:.1f}, and has connections"
        return ""

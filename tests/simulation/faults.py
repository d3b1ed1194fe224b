"""What goes wrong in a schedule, when, and that it ends."""

from __future__ import annotations

from collections.abc import Callable
from errno import ETIMEDOUT

from tests.simulation.apiserver import Master, Store
from tests.simulation.clients import Client
from tests.simulation.network import SILENCE, SimSocket, World
from tests.simulation.operator import Operator


class Faults:
    """`victims` masters are struck, and the others never; what all share, and the operator, are another matter."""

    def __init__(
        self, world: World, store: Store, masters: list[Master], clients: list[Client], operator: Operator
    ) -> None:
        self.victims = world.random.choice((1, 1, 2, 3))
        self.slow = 0  # how often a master became slow
        self._world = world
        self._store = store
        self._masters = masters
        self._clients = clients
        self._operator = operator

    def plan(self, seconds: float) -> None:
        """Everything begins within so many seconds."""
        rng = self._world.random
        victims = rng.sample(self._masters, self.victims)
        faults: list[Callable[[Master], None]] = [
            self._kill,
            self._freeze,
            self._block,
            self._restart,
            self._cut_some,
            self._slow_down,
        ]
        for _ in range(rng.randint(1, 6)):
            self._at_some_time(seconds, rng.choice(faults), rng.choice(victims))
        for _ in range(rng.randint(0, 4)):
            self._at_some_time(seconds, self._leave, rng.choice(self._clients))
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            self._at_some_time(seconds, self._lose_etcd)
        for _ in range(rng.randint(0, 2)):
            self._at_some_time(seconds, self._operator.reload)
        if self._world.chance(0.4):
            self._at_some_time(seconds, self._drain, rng.choice(self._masters))

    def heal(self) -> None:
        self._find_etcd()
        self._operator.make_ready()
        for master in self._masters:
            self._unblock(master)
            self._thaw(master)
            self._speed_up(master)
            if master.draining:
                self._kill(master)
            self._start(master)

    def _at_some_time(self, seconds: float, fault: Callable[..., None], *args: object) -> None:
        self._world.after(self._world.random.uniform(0.0, seconds - 1), fault, *args)

    def _kill(self, master: Master) -> None:
        if master.alive:
            reset = self._world.chance(0.5)
            self._world.tell_fault(f"{master.name} dies ({'RST' if reset else 'FIN'})")
            master.die(reset)
            self._world.after(self._world.random.uniform(0.2, 12.0), self._start, master)

    def _start(self, master: Master) -> None:
        if not master.alive:
            self._world.tell_fault(f"{master.name} starts")
            master.start()

    def _freeze(self, master: Master) -> None:
        if master.alive and not master.frozen:
            self._world.tell_fault(f"{master.name} freezes")
            master.frozen = True
            self._world.after(self._world.random.uniform(0.1, 12.0), self._thaw, master)

    def _thaw(self, master: Master) -> None:
        if master.frozen:
            self._world.tell_fault(f"{master.name} thaws")
            master.thaw()

    def _block(self, master: Master) -> None:
        if not master.path.blocked:
            self._world.tell_fault(f"{master.name} is cut off from the network")
            master.path.blocked = True
            self._world.after(SILENCE, self._give_up, master)
            self._world.after(self._world.random.uniform(0.1, 15.0), self._unblock, master)

    def _give_up(self, master: Master) -> None:
        if master.path.blocked:
            for sock in sorted(master.path.sockets, key=SimSocket.fileno):
                if sock.connected:
                    sock.break_off(ETIMEDOUT)

    def _unblock(self, master: Master) -> None:
        if master.path.blocked:
            self._world.tell_fault(f"{master.name} is reachable again")
            master.heal_network()

    def _restart(self, master: Master) -> None:
        """As systemd does it: it says that it is not ready, and is gone some time later."""
        if master.alive and not master.frozen and not master.draining:
            self._world.tell_fault(f"{master.name} shuts down")
            master.draining = True
            self._world.after(self._world.random.uniform(0.0, 8.0), self._kill, master)

    def _cut_some(self, master: Master) -> None:
        self._world.tell_fault(f"{master.name} loses connections")
        for serving in list(master.serving):
            if self._world.chance(0.5):
                serving.end(reset=self._world.chance(0.5))

    def _slow_down(self, master: Master) -> None:
        if not master.slow:
            self._world.tell_fault(f"{master.name} is slow")
            self.slow += 1
            master.slow = True
            self._world.after(self._world.random.uniform(1.0, 10.0), self._speed_up, master)

    def _speed_up(self, master: Master) -> None:
        if master.slow:
            self._world.tell_fault(f"{master.name} is fast again")
            master.slow = False

    def _lose_etcd(self) -> None:
        if self._store.etcd:
            self._world.tell_fault("no master is ready: etcd")
            self._store.etcd = False
            self._world.after(self._world.random.uniform(0.2, 15.0), self._find_etcd)

    def _find_etcd(self) -> None:
        if not self._store.etcd:
            self._world.tell_fault("etcd is back")
            self._store.etcd = True

    def _drain(self, master: Master) -> None:
        self._operator.drain(self._masters.index(master))
        self._world.after(self._world.random.uniform(1.0, 15.0), self._operator.make_ready)

    def _leave(self, client: Client) -> None:
        self._world.tell(f"{client.name} leaves and comes back")
        client.drop(self._world.chance(0.5))
        client.again(0.0, 1.0)

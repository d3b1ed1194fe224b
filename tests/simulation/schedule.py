"""One schedule of faults: a real worker between simulated clients and simulated masters, all decided by a seed.

Real are the worker and all that it is made of, with the reactor's own loop, the timers and the health machines. Not
real are the sockets, the clock and the checks' way over the network. Listening sockets are left out: a connection
begins where accept() would have ended.

`victims` masters are struck, and the others never: with a single victim the promises are the strongest.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from errno import ECONNREFUSED, ETIMEDOUT
from typing import cast

from lbproxy.core import config as c
from lbproxy.core import messages
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.rebalancing import INTERVAL, Balance
from lbproxy.dataplane.timers import TICK
from lbproxy.dataplane.worker import Worker
from tests.simulation.apiserver import Master, Store
from tests.simulation.checks import Checks
from tests.simulation.clients import Client, Poller, Record, Reflector, Writer
from tests.simulation.network import SILENCE, NoPipes, Path, SimPoll, SimSocket, Violation, World

TROUBLE = 20.0  # seconds of faults
RECOVERY = 25.0  # seconds after the last fault until everybody must have got on
QUIET = 200.0  # seconds after the last client, for what has a deadline to go
MASTERS = 3
PATIENCE = 9.0  # seconds: two checks of a frozen master that take 2 s, the pauses between them, and close_spread


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a schedule did, to see that it was not idle."""

    requests: int
    events: int
    faults: int
    resumed: int
    retried: int
    relists: int


class InOrder(dict[object, None]):
    """A set that is walked in the order of entry: memory addresses must not decide anything."""

    def add(self, one: object) -> None:
        self[one] = None

    def discard(self, one: object) -> None:
        self.pop(one, None)


class Simulation:
    """Everything of one seed. `clients`: how many, or 0 for a few."""

    def __init__(self, seed: int, clients: int = 0) -> None:
        self.world = world = World(seed)
        self.store = Store()
        self.record = Record()
        self.masters: list[Master] = []
        for number in range(MASTERS):
            self.masters.append(Master(world, self.store, number, self.masters))
        self.poll = SimPoll()
        self.reactor = Reactor(cast("object", self.poll), world.clock)  # type: ignore[arg-type]
        self.reactor.pipes = NoPipes()
        backends = tuple(c.Backend(c.Address(one.name, one.name, 6443)) for one in self.masters)
        pool = replace(
            c.Pool("p", backends),
            balance=c.Balance(world.random.choice((c.Algorithm.ROUND_ROBIN, c.Algorithm.LEAST_CONN))),
            rebalance=world.random.choice((c.Rebalance.ON, c.Rebalance.OFF)),
        )
        listener = c.Listener("api", (), c.Mode.HTTP, "p", max_connections=10_000)
        self._control, self._channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._channel.setblocking(False)
        configuration = c.Config(listeners=(listener,), pools=(pool,))
        self.worker = Worker(messages.Configure(configuration, ((),), None), self._channel, self.reactor)
        self.listener = self.worker._listeners[0]
        self.pool = self.listener.pool
        self.listener.connections = InOrder()  # type: ignore[assignment]
        self.listener.dialer.connect = self._dial  # type: ignore[assignment]
        self.checks = Checks(world, self.masters, self.worker, self._control)
        self._client_path = Path()
        self._balance = Balance(self.pool, [self.listener], c.Mode.HTTP, self.reactor)
        self.clients = self._make_clients(clients or world.random.randint(4, 12))
        self._failed = 0
        self._wrong: Violation | None = None  # found where raising it would only meet the reactor's guard
        self.victims = world.random.choice((1, 1, 2, 3))

    def run(self) -> Outcome:
        """Raises Violation."""
        world, state = self.world, random.getstate()
        random.seed(world.random.random())  # the worker's own
        try:
            self._rebalance()
            self._look_at_waiting()
            self._run_for(2.0)
            self._plan_faults()
            self._run_for(TROUBLE)
            self._heal()
            self._run_for(RECOVERY)
            self._check_progress()
            self._check_promises()
            self._end()
            return self._outcome()
        finally:
            random.setstate(state)
            self._channel.close()
            self._control.close()

    # -- the world ----------------------------------------------------------------------------------------------

    def _make_clients(self, count: int) -> list[Client]:
        world = self.world
        made: list[Client] = []
        for number in range(count):
            make = (Reflector, Poller, Writer)[number if number < 3 else world.random.randrange(3)]
            client = make(world, self.store, self.record, self._accept)
            client.again(0.0, 2.0)
            made.append(client)
        return made

    def _accept(self, client: Client) -> SimSocket:
        sock = SimSocket(self.world, self.poll, self._client_path)
        sock.establish(client)
        self.reactor.refresh()
        self.listener.stats.accepted += 1
        number = self.world.number()
        HttpConnection(self.listener, sock, f"10.0.{number // 250 % 250}.{number % 250}", 1024)  # type: ignore[arg-type]
        return sock

    def _dial(self, address: c.Address, _side: c.TcpSide) -> SimSocket:
        world = self.world
        index = next(index for index, one in enumerate(self.masters) if one.name == address.host)
        master = self.masters[index]
        if not master.alive and not master.path.blocked and world.chance(0.3):
            raise ConnectionRefusedError(ECONNREFUSED, "Connection refused")
        sock = SimSocket(world, self.poll, master.path)
        self._ask(index, "is dialled")
        fresh = True

        def on_send(data: bytes) -> None:
            nonlocal fresh
            if data.startswith((b"GET ", b"POST ", b"DELETE ")) and not fresh:
                self._ask(index, f"gets {data[:80]!r}")
            fresh = False  # the first request was decided on with the dial

        sock.on_send = on_send
        world.after(world.latency(), self._on_syn, master, sock)
        return sock

    def _on_syn(self, master: Master, sock: SimSocket) -> None:
        if sock.closed:
            return
        if master.path.blocked:
            self.world.after(1.0, self._on_syn, master, sock)
        elif not master.alive:
            sock.break_off(ECONNREFUSED)
        else:
            master.accept(sock)

    def _ask(self, index: int, what: str) -> None:
        """A backend is chosen: may it be?"""
        ready = [machine.health in (Health.UP, Health.UNKNOWN) for machine in self.checks.machines]
        if ready[index] or self._wrong is not None:
            return
        # Whoever has just failed does not count: the walk may have come from there.
        others = [one for one in self.pool.peers if ready[one.index] and not one.fails]
        if others and not any(_asked_in_vain(connection, others) for connection in self.listener.connections):
            name, health = self.masters[index].name, self.checks.machines[index].health.value
            self._wrong = Violation(f"{name} is {health}, another one is up, and it {what}")

    def _look_at_waiting(self) -> None:
        """With two masters well nobody waits for long, whatever the third one does."""
        if self.victims == 1:
            for client in self.clients:
                if (waited := client.waiting) > PATIENCE and self._wrong is None:
                    self._wrong = Violation(f"{client.name} has been waiting for {waited:.1f} s")
        self.world.after(0.5, self._look_at_waiting)

    def _rebalance(self) -> None:
        if self._balance.wanted and not self.checks.stopped:
            self.reactor.refresh()
            self._balance.look()
            self.world.after(INTERVAL, self._rebalance)

    # -- faults --------------------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        rng = self.world.random
        victims = rng.sample(self.masters, self.victims)
        faults: list[Callable[[Master], None]] = [self._kill, self._freeze, self._block, self._restart, self._cut_some]
        for _ in range(rng.randint(1, 6)):
            self.world.after(rng.uniform(0.0, TROUBLE - 1), rng.choice(faults), rng.choice(victims))
        for _ in range(rng.randint(0, 4)):
            self.world.after(rng.uniform(0.0, TROUBLE - 1), self._leave, rng.choice(self.clients))

    def _kill(self, master: Master) -> None:
        if master.alive:
            reset = self.world.chance(0.5)
            self.world.tell_fault(f"{master.name} dies ({'RST' if reset else 'FIN'})")
            master.die(reset)
            self.world.after(self.world.random.uniform(0.2, 12.0), self._start, master)

    def _start(self, master: Master) -> None:
        if not master.alive:
            self.world.tell_fault(f"{master.name} starts")
            master.start()

    def _freeze(self, master: Master) -> None:
        if master.alive and not master.frozen:
            self.world.tell_fault(f"{master.name} freezes")
            master.frozen = True
            self.world.after(self.world.random.uniform(0.1, 12.0), self._thaw, master)

    def _thaw(self, master: Master) -> None:
        if master.frozen:
            self.world.tell_fault(f"{master.name} thaws")
            master.thaw()

    def _block(self, master: Master) -> None:
        if not master.path.blocked:
            self.world.tell_fault(f"{master.name} is cut off from the network")
            master.path.blocked = True
            self.world.after(SILENCE, self._give_up, master)
            self.world.after(self.world.random.uniform(0.1, 15.0), self._unblock, master)

    def _give_up(self, master: Master) -> None:
        if master.path.blocked:
            for sock in sorted(master.path.sockets, key=SimSocket.fileno):
                if sock.connected:
                    sock.break_off(ETIMEDOUT)

    def _unblock(self, master: Master) -> None:
        if master.path.blocked:
            self.world.tell_fault(f"{master.name} is reachable again")
            master.heal_network()

    def _restart(self, master: Master) -> None:
        """As systemd does it: it says that it is not ready, and is gone some time later."""
        if master.alive and not master.frozen and not master.draining:
            self.world.tell_fault(f"{master.name} shuts down")
            master.draining = True
            self.world.after(self.world.random.uniform(0.0, 8.0), self._kill, master)

    def _cut_some(self, master: Master) -> None:
        self.world.tell_fault(f"{master.name} loses connections")
        for serving in list(master.serving):
            if self.world.chance(0.5):
                serving.end(reset=self.world.chance(0.5))

    def _leave(self, client: Client) -> None:
        self.world.tell(f"{client.name} leaves and comes back")
        client.drop(self.world.chance(0.5))
        client.again(0.0, 1.0)

    def _heal(self) -> None:
        for master in self.masters:
            self._unblock(master)
            self._thaw(master)
            if master.draining:
                self._kill(master)
            self._start(master)

    # -- time ----------------------------------------------------------------------------------------------------

    def _run_for(self, seconds: float, pace: float = TICK) -> None:
        world, timers = self.world, self.reactor.timers
        end = world.now + seconds
        while True:
            tick = (int(world.now / pace + 1e-6) + 1) * pace + 1e-7 if timers else end
            world.now = min(world.next, tick, end)
            self.poll.calls = 0
            self.reactor.refresh()
            world.run_due()
            self._spin()
            failed = sum(peer.stats.failed for peer in self.pool.peers)
            if failed != self._failed:  # else there is no report to hear, and a system call for nothing
                self._failed = failed
                self.checks.hear()
            if world.now >= end:
                return

    def _spin(self) -> None:
        reactor = self.reactor
        if self.poll.ready or reactor._again or reactor._after_wait:
            while reactor._burst():
                pass
        reactor.settle()
        if self._wrong is not None:
            raise self._wrong
        if reactor.internal_errors:
            raise Violation("a callback raised what it should not")

    # -- invariants ---------------------------------------------------------------------------------------------

    def _check_progress(self) -> None:
        for client in self.clients:
            if not isinstance(client, Reflector) and self.world.now - client.progress > RECOVERY / 2:
                raise Violation(f"{client.name} has got nowhere since {client.progress - 1000:.1f}")
            client.stopped = isinstance(client, Writer)
        self._run_for(5.0)
        for client in self.clients:
            if isinstance(client, Reflector) and client.version != self.store.version:
                raise Violation(f"{client.name} has come to {client.version} of {self.store.version}")

    def _check_promises(self) -> None:
        record, store = self.record, self.store
        executed = store.executed
        if twice := [name for name, count in executed.items() if count > 1]:
            raise Violation(f"executed more than once: {twice}")
        if lost := [name for name in sorted(record.acknowledged) if not executed[name]]:
            raise Violation(f"acknowledged and not there: {lost}")
        if lies := [name for name in sorted(record.not_sent) if executed[name]]:
            raise Violation(f"answered with Retry-After, and executed: {lies}")
        if self.victims == 1:
            for what, cases in (
                ("GETs failed", record.failed_reads),
                ("watches broke", record.broken_watches),
                ("listed again", record.relists),
            ):
                if cases:
                    raise Violation(f"two masters were well all the time, and yet {what}: {cases}")

    def _end(self) -> None:
        for client in self.clients:
            client.stop()
        self._run_for(1.0)
        self.checks.stopped = True
        for peer in self.pool.peers:
            for idle in list(peer.idle):
                idle.discard()
        self._run_for(QUIET, 5.0)
        left = {
            "connections of the listener": len(self.listener.connections),
            "connections of the pool": sum(peer.conns for peer in self.pool.peers),
            "long streams": sum(abs(peer.stats.long_streams) for peer in self.pool.peers),
            "sockets": len(self.poll.sockets),
            "handlers": len(self.reactor.handlers),
            "timers": len(self.reactor.timers),
        }
        if any(left.values()):
            raise Violation(f"left over: {left}")

    def _outcome(self) -> Outcome:
        stats = self.worker.stats()
        return Outcome(
            self.record.requests,
            self.record.events,
            len(self.world.faults),
            stats.listeners[0].watches_resumed,
            sum(sum(one.retries.values()) for one in stats.pools["p"]),
            len(self.record.relists),
        )


def _asked_in_vain(connection: object, peers: list[Peer]) -> bool:
    """A watch with which none of these would go on: then one that is not ready may be asked."""
    return (
        isinstance(connection, HttpConnection)
        and connection.watch is not None
        and connection.watch.resuming
        and connection._selection is not None
        and all(connection._selection.tried & peer.bit for peer in peers)
    )


def simulate(seed: int, clients: int = 0) -> Outcome:
    """Run one schedule. Raises Violation with its story."""
    simulation = Simulation(seed, clients)
    try:
        return simulation.run()
    except (Violation, AssertionError, ValueError, KeyError, OSError) as error:
        story = "\n  ".join(simulation.world.story)
        faults = "\n  ".join(simulation.world.faults)
        raise Violation(
            f"seed {seed}: {error!r}\n"
            f"run it alone: LBPROXY_SIMULATION_SEEDS={seed}-{seed + 1} python -m pytest tests/simulation -k promise\n"
            f"{simulation.victims} victims; faults:\n  {faults}\nthe last that happened:\n  {story}"
        ) from error

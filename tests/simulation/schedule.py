"""One schedule of faults: a real worker between simulated clients and simulated masters, all decided by a seed.

Real are the worker and all that it is made of, with the reactor's own loop, the timers and the health machines. Not
real are the sockets, the clock and the checks' way over the network. Listening sockets are left out: a connection
begins where accept() would have ended.

Some masters are struck, and the others never (faults.py): with a single victim the promises are the strongest. Half of
the schedules have a tcp listener, too, in front of the same masters, and clients of its own.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from errno import ECONNREFUSED
from functools import partial
from typing import cast

from lbproxy.core import config as c
from lbproxy.core import messages
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.core.rebalancing import spread
from lbproxy.core.termination import Termination
from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.rebalancing import INTERVAL
from lbproxy.dataplane.timers import TICK
from lbproxy.dataplane.worker import Worker
from tests.simulation.apiserver import SLOW, Master, Store
from tests.simulation.checks import Checks
from tests.simulation.clients import Client, Poller, Record, Reflector, Writer
from tests.simulation.faults import Faults
from tests.simulation.network import NoPipes, Path, SimPoll, SimSocket, Violation, World
from tests.simulation.operator import Operator
from tests.simulation.order import InOrder, SimTimers
from tests.simulation.relays import Chronicle, SimRelay

TROUBLE = 20.0  # seconds of faults
RECOVERY = 25.0  # seconds after the last fault until everybody must have got on
QUIET = 200.0  # seconds after the last client, for what has a deadline to go
MASTERS = 3
EVENING = 120.0  # seconds in which many streams have become even
MANY = 60  # clients: then it is seen whether they do
MOSTLY_WATCHING: tuple[type[Client], ...] = (Reflector, Poller, Writer, *[Reflector] * 10, *[Poller] * 3)
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
    turned_away: int
    reloads: int
    cut: int  # tcp connections, off the dead ...
    drained: int  # ... and off those that were not ready for long


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
        self.reactor.timers = SimTimers(world.now, self.reactor._bug)
        configuration = self._configuration(clients)
        self._control, self._channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._channel.setblocking(False)
        listen = tuple(() for _ in configuration.listeners)
        self.worker = Worker(messages.Configure(configuration, listen, None), self._channel, self.reactor)
        self.listener, *relaying = self.worker._listeners
        self.relaying = relaying[0] if relaying else None
        self.pool = self.listener.pool
        for listener in self.worker._listeners:
            listener.connections = InOrder()  # type: ignore[assignment]
        self.operator = Operator(world, self.worker, configuration, self._on_change)
        self.checks = Checks(world, self.masters, self.worker, self._control)
        self.checks.on_change = self._on_change
        self.chronicle = Chronicle(world, self.pool, lambda index: self._health(index), self.operator.is_ready)
        self._on_change()
        self._client_path = Path()
        count = clients or world.random.randint(4, 12)
        self.clients = self._make_clients(count, self.record, self._accept)
        self.relayed: list[Client] = []
        self.relayed_record = Record()
        if self.relaying is not None:
            self.relayed = self._make_clients(count // 2, self.relayed_record, self._accept_for_relay)
        self._failed = 0
        self._wrong: Violation | None = None  # found where raising it would only meet the reactor's guard
        self.faults = Faults(world, self.store, self.masters, self.clients + self.relayed, self.operator)
        self.victims = self.faults.victims

    def run(self) -> Outcome:
        """Raises Violation."""
        world, state = self.world, random.getstate()
        random.seed(world.random.random())  # the worker's own
        try:
            self._rebalance()
            self._look_at_waiting()
            self._run_for(2.0)
            self.faults.plan(TROUBLE)
            self._run_for(TROUBLE)
            self.faults.heal()
            self._run_for(RECOVERY)
            self._check_progress()
            self._check_promises()
            self._check_admission()
            self._check_evenness()
            self._end()
            return self._outcome()
        finally:
            random.setstate(state)
            self._channel.close()
            self._control.close()

    # -- the world ----------------------------------------------------------------------------------------------

    def _configuration(self, clients: int) -> c.Config:
        random = self.world.random
        pool = replace(
            c.Pool("p", tuple(c.Backend(c.Address(one.name, one.name, 6443)) for one in self.masters)),
            balance=c.Balance(random.choice((c.Algorithm.ROUND_ROBIN, c.Algorithm.LEAST_CONN))),
            rebalance=random.choice((c.Rebalance.ON, c.Rebalance.OFF)),
            slow_start=random.choice((0.0, 5.0, 60.0)),
            drain_timeout=random.choice((1.0, 4.0, 30.0)),
        )
        listeners = [c.Listener("api", (), c.Mode.HTTP, "p", max_connections=10_000)]
        if random.random() < 0.5:
            listeners.append(c.Listener("raw", (), c.Mode.TCP, "p", max_connections=10_000))
        http = c.Http(recovery_rate=1, recovery_time=5.0) if clients < MANY and random.random() < 0.5 else c.Http()
        return c.Config(listeners=tuple(listeners), pools=(pool,), http=http)

    def _make_clients(self, count: int, record: Record, connect: Callable[[Client], SimSocket]) -> list[Client]:
        world = self.world
        made: list[Client] = []
        for number in range(count):
            kinds = (Reflector, Poller, Writer) if count < MANY else MOSTLY_WATCHING
            make = kinds[number if number < 3 else world.random.randrange(len(kinds))]
            client = make(world, self.store, record, connect)
            if count >= MANY and isinstance(client, Reflector):
                client.lifetime = (300, 600)  # as client-go has it: then it is not new watches that make it even
            client.again(0.0, 2.0)
            made.append(client)
        return made

    def _on_change(self) -> None:
        """Health is another, or the configuration."""
        for listener in self.worker._listeners:
            relays = listener is self.relaying
            listener.dialer.connect = partial(self._dial, relays)  # type: ignore[assignment]
        self.chronicle.note()

    def _health(self, index: int) -> Health:
        return self.checks.machines[index].health

    def _accept(self, client: Client) -> SimSocket:
        sock = SimSocket(self.world, self.poll, self._client_path)
        sock.establish(client)
        self.reactor.refresh()
        self.listener.stats.accepted += 1
        number = self.world.number()
        HttpConnection(self.listener, sock, f"10.0.{number // 250 % 250}.{number % 250}", 1024)  # type: ignore[arg-type]
        return sock

    def _accept_for_relay(self, client: Client) -> SimSocket:
        assert self.relaying is not None
        sock = SimSocket(self.world, self.poll, self._client_path)
        sock.establish(client)
        self.reactor.refresh()
        SimRelay(self._on_relay_end, self.relaying, sock, self.world.number())
        return sock

    def _on_relay_end(self, peer: Peer, termination: Termination) -> None:
        if (wrong := self.chronicle.judge(peer, termination)) and self._wrong is None:
            self._wrong = Violation(f"a connection ends {termination.value}: {wrong}")

    def _dial(self, relays: bool, address: c.Address, _side: c.TcpSide) -> SimSocket:
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

        if not relays:  # what a client says later on is not ours to send elsewhere
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
        ready = [
            machine.health in (Health.UP, Health.UNKNOWN) and self.operator.is_ready(number)
            for number, machine in enumerate(self.checks.machines)
        ]
        if ready[index] or self._wrong is not None:
            return
        # Whoever has just failed does not count: the walk may have come from there.
        others = [one for one in self.pool.peers if ready[one.index] and not one.fails]
        if others and not any(_asked_in_vain(connection, others) for connection in self.listener.connections):
            name, health = self.masters[index].name, self._health(index).value
            wanted = "wanted" if self.operator.is_ready(index) else "drained"
            self._wrong = Violation(f"{name} is {health} and {wanted}, another one is up, and it {what}")

    def _look_at_waiting(self) -> None:
        """With two masters well nobody waits for long, whatever the third one does."""
        patience = PATIENCE + SLOW * self.faults.slow
        if self.victims == 1:
            for client in self.clients + self.relayed:
                if (waited := client.waiting) > patience and self._wrong is None:
                    self._wrong = Violation(f"{client.name} has been waiting for {waited:.1f} s")
        if self.relaying is not None and self._wrong is None and (overdue := self.chronicle.overdue(self.relaying)):
            self._wrong = Violation(overdue)
        self.world.after(0.5, self._look_at_waiting)

    def _rebalance(self) -> None:
        if not self.checks.stopped:
            self.reactor.refresh()
            for balance in self.worker._balances:
                balance.look()
            self.world.after(INTERVAL, self._rebalance)

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
        for client in self.clients + self.relayed:
            if not isinstance(client, Reflector) and self.world.now - client.progress > RECOVERY / 2:
                raise Violation(f"{client.name} has got nowhere since {client.progress - 1000:.1f}")
            client.stopped = isinstance(client, Writer)
        self._run_for(5.0)
        for client in self.clients + self.relayed:
            if isinstance(client, Reflector) and client.version != self.store.version:
                raise Violation(f"{client.name} has come to {client.version} of {self.store.version}")

    def _check_promises(self) -> None:
        record, store = self.record, self.store
        executed = store.executed
        if twice := [name for name, count in executed.items() if count > 1]:
            raise Violation(f"executed more than once: {twice}")
        relayed = self.relayed_record
        if lost := [name for name in sorted(record.acknowledged | relayed.acknowledged) if not executed[name]]:
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

    def _check_admission(self) -> None:
        """After each outage watches and lists are let in at the rate, and what may come at once."""
        http = self.operator.config.http
        recoveries = self.checks.recoveries
        for begin, end in zip(recoveries, [*recoveries[1:], self.world.now], strict=False):
            let_in = sorted(when for when in self.record.let_in if begin < when < min(end, begin + http.recovery_time))
            for number, when in enumerate(let_in, 1):
                if number > http.recovery_rate * (1 + when - begin + 0.5) + 1:
                    raise Violation(f"{number} watches and lists were let in within {when - begin:.1f} s")

    def _check_evenness(self) -> None:
        """With the masters well for a while, streams are where they should be.

        Not with a tcp listener on the same pool: then picks go by both kinds of connections.
        """
        pool = self.pool.config
        if (
            self.relaying is not None
            or len(self.clients) < MANY
            or pool.rebalance is not c.Rebalance.ON
            or pool.slow_start > EVENING / 2
        ):
            return
        for client in self.clients + self.relayed:
            client.stopped = client.stopped or not isinstance(client, Reflector)
        self._run_for(EVENING)
        seen = []
        for _ in range(15):  # watches end and begin all the time
            self._run_for(1.0)
            seen.append([peer.stats.long_streams for peer in self.pool.peers])
            if spread(seen[-1], [1.0] * MASTERS) <= max(0.1, MASTERS / sum(seen[-1])) + 1e-9:
                return
        raise Violation(f"long streams are spread unevenly: {seen}")

    def _end(self) -> None:
        for client in self.clients + self.relayed:
            client.stop()
        self._run_for(1.0)
        self.checks.stopped = True
        for peer in self.pool.peers:
            for idle in list(peer.idle):
                idle.discard()
        self._run_for(QUIET, 5.0)
        left = {
            "connections of the listeners": sum(len(one.connections) for one in self.worker._listeners),
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
            self.record.turned_away,
            self.operator.reloads,
            self.chronicle.cut,
            self.chronicle.drained,
        )


def _asked_in_vain(connection: object, peers: list[Peer]) -> bool:
    """A watch with which none of these would go on, or a request that they refused: then one not ready may be asked."""
    return (
        isinstance(connection, HttpConnection)
        and (connection._retried or (connection.watch is not None and connection.watch.resuming))
        and all(connection.selection.tried & peer.bit for peer in peers)
    )


def simulate(seed: int, clients: int = 0) -> Outcome:
    """Run one schedule. Raises Violation with its story."""
    simulation = Simulation(seed, clients)
    try:
        return simulation.run()
    except (Violation, AssertionError, ValueError, KeyError, OSError, RecursionError) as error:
        story = "\n  ".join(simulation.world.story)
        faults = "\n  ".join(simulation.world.faults)
        raise Violation(
            f"seed {seed}: {error!r}\n"
            f"run it alone: LBPROXY_SIMULATION_SEEDS={seed}-{seed + 1} python -m pytest tests/simulation -k promise\n"
            f"{simulation.victims} victims; faults:\n  {faults}\nthe last that happened:\n  {story}"
        ) from error

"""A worker process: `python -m lbproxy.dataplane.worker FD`, started by the control plane and configured over FD.

It ends when told to drain, and by itself when the channel closes: without a control plane nobody would see its
health checks' results, so it lets its connections end and leaves the listening address to the successor.
"""

from __future__ import annotations

import array
import gc
import logging
import mmap
import os
import random
import resource
import select
import signal
import socket
import sys
from dataclasses import replace

import trio

from lbproxy.core import board, messages
from lbproxy.core.config import BackendState, Config, Mode, connections_within
from lbproxy.core.config import Listener as ListenerConfig
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool
from lbproxy.dataplane.access_log import AccessLog
from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.ending import Ending
from lbproxy.dataplane.finding import find
from lbproxy.dataplane.leaving import Leaving
from lbproxy.dataplane.listener import Listener
from lbproxy.dataplane.moving import State, left_behind
from lbproxy.dataplane.reactor import IN, Reactor
from lbproxy.dataplane.rebalancing import INTERVAL, Balance
from lbproxy.dataplane.reports import Reports
from lbproxy.dataplane.scheduling import ask_for_short_slices
from lbproxy.dataplane.statistics import Statistics
from lbproxy.dataplane.tcp import TcpConnection

_ROOM_FOR_FDS = socket.CMSG_SPACE(messages.MAX_FDS * 4)
REPORT_INTERVAL = 0.5  # seconds between two reports of failures of one backend
GC_THRESHOLD = 50_000  # young objects before a collection: connections are freed by reference counts (test_freeing.py)

log = logging.getLogger(__name__)


class Worker:
    """The worker's objects, built from one Configure message."""

    def __init__(self, configure: messages.Configure, channel: socket.socket, reactor: Reactor | None = None) -> None:
        self._sock = channel
        self._channel = trio.socket.from_stdlib_socket(channel)
        self._config = config = configure.config
        self._reactor = Reactor() if reactor is None else reactor
        self.log = None if configure.access_log_fd is None else AccessLog(configure.access_log_fd, self._reactor)
        self._generation = configure.generation
        self._pools: dict[str, Pool] = {}
        self._listeners: list[Listener] = []
        self._retired: list[Listener] = []  # not in the configuration any more; their connections live on
        self._reported: dict[int, float] = {}
        self._statistics = Statistics()
        self._board: board.Board | None = None
        self._balances: list[Balance] = []
        self._leaving = Leaving(self._reactor, self._all_listeners, random.uniform)
        self._ending = Ending(self._reactor, self._all_listeners, self._listener_of, lambda: self._config.shutdown)
        self._adopt(configure.place)
        for known in configure.health:
            self._take_health(known)
        self._listeners = [self._listener(index) for index in range(len(config.listeners))]
        self._balance()
        for listener, fds in zip(self._listeners, configure.listen_fds, strict=True):
            listener.open(dict(zip((address.text for address in listener.config.bind), fds, strict=True)))

    async def run(self) -> None:
        """Serve until drained."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reactor.run)
                nursery.start_soon(self._rebalance)
                self._reactor.add(self._channel.fileno(), self._reactor.give_way, IN | select.EPOLLET)
                await self._channel.send(messages.encode(messages.Ready()))
                await self._obey()
                nursery.cancel_scope.cancel()
        finally:
            for listener in self._all_listeners():
                listener.stop()
            self._ending.close_connections()
            for pool in self._pools.values():
                for peer in pool.peers:
                    for idle in list(peer.idle):
                        idle.discard()
            self._reactor.close_all()

    async def _obey(self) -> None:
        """Handle messages until Drain, or the end of the control plane, and return when all connections are gone.

        While it drains it still answers, and a second Drain may leave the connections less time.
        """
        async with trio.open_nursery() as nursery:
            while (received := await self._receive()) is not None:
                message, fds = received
                if isinstance(message, messages.GetStats):
                    await self._answer(self.stats())
                elif isinstance(message, messages.Reconfigure):
                    self._reconfigure(message, fds)
                elif isinstance(message, messages.SetHealth | messages.SetFailOpen):
                    self._take_health(message)
                elif isinstance(message, messages.Find):
                    self._reactor.refresh()
                    await self._answer(find(message, self._all_listeners(), self._reactor.timers.now))
                    self._reactor.settle()
                elif isinstance(message, messages.Drain):
                    self._ending.drain(message.seconds, nursery)
                elif isinstance(message, messages.HandOver):
                    nursery.start_soon(self._ending.hand_over, socket.socket(fileno=fds[0]), message.seconds, nursery)
                elif isinstance(message, messages.TakeOver):
                    nursery.start_soon(self._take_over, socket.socket(fileno=fds[0]))
            log.warning("the control plane is gone: this worker drains and ends")
            self._ending.drain(self._config.shutdown.drain, nursery)

    def _take_health(self, message: messages.SetHealth | messages.SetFailOpen) -> None:
        pool = self._pools[message.pool]
        if isinstance(message, messages.SetFailOpen):
            self._reactor.refresh()
            pool.fail_open = message.fail_open
            self._leaving.look([pool])
            return
        peer = pool.peers[message.backend]
        before = peer.health
        # Nobody was alive, or nobody ready: a herd waits, and comes to the first who is alive (`all_down: try`).
        silence = all(one.health is Health.DOWN for one in pool.peers)
        outage = silence or not any(one.usable for one in pool.peers)
        self._reactor.refresh()
        pool.set_health(message.backend, message.health, message.clear_failures, self._reactor.second)
        if outage and (peer.usable or (silence and message.health is not Health.DOWN)):
            for listener in self._listeners:
                if listener.pool is pool:
                    listener.recover()
        if message.health is before:
            return
        self._leaving.look([pool])
        self._leaving.part_from(pool, peer)

    def _reconfigure(self, message: messages.Reconfigure, fds: list[int]) -> None:
        """Become what the new configuration says, and leave alone what it leaves alone."""
        self._reactor.refresh()
        before = {_identity(one.config): one for one in self._listeners}
        states = {peer: peer.state for pool in self._pools.values() for peer in pool.peers}
        known = self._pools
        self._generation = message.generation
        self._config = config = message.config
        if message.place is not None:
            message = replace(message, place=replace(message.place, fd=fds.pop()))
        gone = self._adopt(message.place)
        self._listeners = []
        for index, listener in enumerate(config.listeners):
            one = before.pop(_identity(listener), None)
            if one is None:
                self._listeners.append(self._listener(index))
                continue
            one.configure(listener, config, self._access(), listener.max_connections or _fd_share(), self._board, index)
            wanted = {address.text for address in listener.bind}
            one.close([address for address in one.addresses if address not in wanted])
            self._listeners.append(one)
        for one in before.values():
            self._retire(one)
        for one, listener, numbers in zip(self._listeners, config.listeners, message.listen, strict=True):
            passed = zip(listener.bind, numbers, strict=True)
            sockets = {address.text: fds[number] for address, number in passed if number != messages.KEPT}
            if self._ending.accepts_no_more:
                for fd in sockets.values():
                    os.close(fd)
            else:
                one.open(sockets)
            for connection in one.connections:
                connection.on_reconfigured()
        for health in message.health:
            self._take_health(health)
        for name, peer in gone:
            for idle in list(peer.idle):
                idle.discard()
            self._leaving.empty(known[name], peer)
        self._leaving.forget(self._pools.values())
        self._leaving.look(self._pools.values())
        for pool in self._pools.values():
            for peer in pool.peers:
                self._obey_state(pool, peer, states.get(peer, peer.state))
        for one in [one for one in self._retired if not one.connections]:
            self._retired.remove(one)
            self._statistics.keep(one)
        self._statistics.streams.forget()
        self._balance()
        self._reactor.settle()

    def _obey_state(self, pool: Pool, peer: Peer, before: BackendState) -> None:
        """The operator drains a backend, or takes it away."""
        if peer.state is BackendState.DRAIN and before is BackendState.READY:
            self._leaving.empty(pool, peer)
        elif peer.state is BackendState.MAINT and before is not BackendState.MAINT:
            self._leaving.cut_off(pool, peer)
        elif peer.state is BackendState.READY and before is not BackendState.READY:
            self._leaving.part_from(pool, peer)  # which stays if it is ready, or if nobody else is

    def _adopt(self, place: messages.Place | None) -> list[tuple[str, Peer]]:
        """Have the pools of the configuration; the backends that are in it no more, with their pools' names."""
        config, known = self._config, dict(self._pools)
        self._board = None if place is None else _open_board(place, config)
        gone: list[tuple[str, Peer]] = []
        self._pools = {}
        for pool in config.pools:
            old = known.pop(pool.name, None)
            if old is None:
                self._pools[pool.name] = Pool(pool, random.randrange)
            else:
                self._pools[pool.name] = old
                gone += [(pool.name, peer) for peer in old.configure(pool)]
            shared = self._board if board.is_shared(pool) else None
            self._pools[pool.name].share(shared, board.first_column(config, pool.name))
        for name, dissolved in known.items():
            gone += [(name, peer) for peer in dissolved.dissolve()]
        return gone

    def _retire(self, listener: Listener) -> None:
        """It is in the configuration no more: no new connections, and no new requests on those that it has."""
        listener.stop()
        listener.leave_board()
        self._retired.append(listener)
        for connection in list(listener.connections):
            connection.drain()

    def _all_listeners(self) -> list[Listener]:
        return self._retired + self._listeners

    def _balance(self) -> None:
        """Make what keeps long streams even, where that is wanted."""
        known = {(balance.pool, balance.mode): balance for balance in self._balances}
        self._balances = []
        for pool in self._pools.values():
            for mode in Mode:
                balance = known.get((pool, mode)) or Balance(pool, self._listeners, mode, self._reactor)
                balance.configure(self._listeners)
                if balance.wanted:
                    self._balances.append(balance)

    async def _rebalance(self) -> None:
        reactor = self._reactor
        while not self._ending.draining:
            await trio.sleep(INTERVAL)
            if self._balances:
                reactor.refresh()
                for balance in self._balances:
                    balance.look()
                reactor.settle()

    async def _receive(self) -> tuple[messages.ToWorker | messages.ToControl, list[int]] | None:
        """The next message and its descriptors; None when the control plane is gone."""
        try:
            packet, ancillary, _flags, _sender = await self._channel.recvmsg(messages.MAX_MESSAGE, _ROOM_FOR_FDS)
        except OSError:
            return None
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        return (messages.decode(packet), list(fds)) if packet else None

    async def _answer(self, answer: messages.Stats | messages.Found | messages.TakenOver) -> None:
        try:
            for packet in messages.encode_in_parts(answer):
                await self._channel.send(packet)
        except OSError:  # the control plane is gone: the next receive will say so
            return

    async def _take_over(self, channel: socket.socket) -> None:
        """Go on with everything that a predecessor has."""
        count = await self._ending.take_over(channel)
        self._reactor.refresh()
        for pool in dict.fromkeys([*self._pools.values(), *(one.pool for one in self._retired)]):
            for peer in pool.peers_and_former:  # what was on its way out there is so here
                self._leaving.part_from(pool, peer)
        self._reactor.settle()
        await self._answer(messages.TakenOver(count))

    def _listener_of(self, state: State) -> Listener:
        """The listener of a connection that comes from a predecessor; if lb.yaml does not have it, one that retires."""
        config, pool_config = left_behind(state)
        for one in (*self._listeners, *self._retired):
            if _identity(one.config) == _identity(config):
                return one
        pools = self._pools | {one.pool.name: one.pool for one in self._retired if one.pool.name not in self._pools}
        pool = pools.get(config.pool) or Pool(pool_config, random.randrange)
        listener = self._make_listener(config, pool)
        self._retire(listener)
        return listener

    def _listener(self, index: int) -> Listener:
        config = self._config.listeners[index]
        return self._make_listener(config, self._pools[config.pool], self._board, index)

    def _make_listener(
        self, config: ListenerConfig, pool: Pool, shared: board.Board | None = None, column: int = 0
    ) -> Listener:
        return Listener(
            config,
            self._config,
            pool,
            self._reactor,
            self._access(),
            lambda peer, reason: self._report(pool, peer, reason),
            config.max_connections or _fd_share(),
            shared,
            column,
            TcpConnection if config.mode is Mode.TCP else HttpConnection,
        )

    def _access(self) -> AccessLog | None:
        return None if self.log is None else self.log.configure(self._config.log.access)

    def _report(self, pool: Pool, peer: Peer, reason: str) -> None:
        """Tell the control plane of a passive failure, at most every REPORT_INTERVAL."""
        if peer.removed:
            return
        now = self._reactor.timers.now
        if now - self._reported.get(id(peer), -REPORT_INTERVAL) < REPORT_INTERVAL:
            return
        self._reported[id(peer)] = now
        try:
            self._sock.send(messages.encode(messages.BackendFailed(pool.name, peer.index, reason, self._generation)))
        except OSError:  # full or gone: the next failure will say it again
            return

    def stats(self) -> messages.Stats:
        """The counters as they stand."""
        now, alone = self._reactor.timers.now, self._config.workers == 1
        stats = self._statistics.collect(self._pools, self._listeners, self._retired, now, alone=alone)
        stats.internal_errors = self._reactor.internal_errors
        stats.log_dropped = self.log.dropped if self.log is not None else 0
        stats.generation = self._generation
        return stats


def _identity(listener: ListenerConfig) -> tuple[str, Mode, str]:
    """What makes a listener the same one after a reload."""
    return listener.name, listener.mode, listener.pool


def _open_board(place: messages.Place, config: Config) -> board.Board:
    columns = board.width(config)
    cells = memoryview(mmap.mmap(place.fd, place.rows * columns * board.CELL)).cast("i")
    os.close(place.fd)
    return board.Board(cells, columns, place.row)


def _fd_share() -> int:
    """Connections that the limit of descriptors allows."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections_within(soft)


async def serve(channel: socket.socket) -> None:
    """Wait for Configure on the channel, then serve until drained."""
    with channel:
        packet = channel.recv(messages.MAX_MESSAGE)  # blocking: there is nothing else to do yet
        if not packet:
            return
        configure = messages.decode(packet)
        if not isinstance(configure, messages.Configure):
            raise TypeError(f"the first message is {type(configure).__name__}, not Configure")
        worker = Worker(configure, channel)
        if worker.log is not None:
            logging.getLogger().addHandler(Reports(worker.log))
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 100)
        try:
            await worker.run()
        except Exception:  # no guard: it ends, and says why
            log.exception("internal error in the worker, which ends")
            raise SystemExit(1) from None


def main(argv: list[str]) -> int:
    """The process. Signals are the control plane's business: a terminal's ^C reaches the whole group."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    ask_for_short_slices()
    trio.run(serve, socket.socket(fileno=int(argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""The composition root: what runs in the control plane, who knows whom, and in which order it starts and stops.

    sockets open → workers started and ready → checks run → admin endpoint answers → signals obeyed

Everything lives in one nursery. It ends when the workers are gone, by drain or by force.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import trio

from lbproxy import __version__
from lbproxy.admin.access_formats import formatter
from lbproxy.admin.history import History
from lbproxy.admin.log import EventLog, Output, Records
from lbproxy.admin.server import AdminServer
from lbproxy.admin.view import BackendView, WorkerView
from lbproxy.control.config_problem import ConfigError, Loaded
from lbproxy.control.fd_limit import few_fds
from lbproxy.control.listening import ListenError, ListeningSockets
from lbproxy.control.pool_health import PoolHealth
from lbproxy.control.predecessor import Bequest
from lbproxy.control.reload import ReloadResult, differences, load_meanwhile
from lbproxy.control.runtime_state import RuntimeState
from lbproxy.control.service_manager import ServiceManager
from lbproxy.control.supervisor import Supervisor, WorkerStartError
from lbproxy.control.upgrade import SIGNALS, Estate
from lbproxy.control.upgrader import Upgrade, UpgradeResult
from lbproxy.core import messages
from lbproxy.core.config import BackendState, Config, Log, Pool
from lbproxy.core.histogram import Histogram

STATUS_INTERVAL = 1.0  # seconds between two words to the service manager
ANSWER_TIME = 0.2  # seconds


class ControlPlane:
    """Holds the parts together, and is what the admin endpoint sees of them (admin.view.View)."""

    def __init__(
        self,
        loaded: Loaded,
        sockets: ListeningSockets,
        runtime_socket: tuple[socket.socket | None, str],
        output: Output,
        estate: Estate,
    ) -> None:
        self._runtime_state = RuntimeState()
        self._runtime_state.restore(estate.get("runtime_state", []))
        self.config = self._runtime_state.apply(loaded.config)
        self.config_path = loaded.path
        self.config_sha256 = loaded.sha256
        self.started_at = self.loaded_at = time.time()
        self.upgraded_from: str = estate.get("version", "")
        self.draining = False
        self._sockets = sockets
        self._output = output
        self._log = EventLog(output)
        self._configure_log(loaded.config.log)
        self.events = self._log.recent
        self.history = History()
        self._health = {pool.name: self._pool_health(pool) for pool in self.config.pools}
        self._loaded = loaded.config  # as lb.yaml has it
        self._runtime_socket = runtime_socket
        self._service = ServiceManager()
        self._nursery: trio.Nursery | None = None
        self._reloading = trio.Lock()
        self.config_error: str | None = None
        self._upgrade = Upgrade(self._log, output, self._service)
        self._admin_scope = trio.CancelScope()
        self._supervisor = Supervisor(
            self.config,
            sockets.of,
            log=self._log,
            output=output,
            current_health=self._known_health,
            on_backend_failed=lambda message: self._health[message.pool].on_backend_failed(message),
            predecessors=[Bequest(*one) for one in estate.get("workers", [])],
            on_counters=lambda stats: self.history.sample(trio.current_time(), self, stats),
        )
        for name, state in estate.get("health", {}).items():
            self._health[name].restore(state)

    async def run(self) -> int:
        """Run until stopped; the exit status."""
        logging.getLogger("lbproxy").addHandler(Records(self._log))
        with trio.open_signal_receiver(*SIGNALS) as received:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a predecessor has held them back
            started = True
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, received, nursery.cancel_scope)
                    await nursery.start(self._supervisor.run)
                    self._nursery = nursery
                    for health in self._health.values():
                        nursery.start_soon(health.run)
                    nursery.start_soon(self._serve_admin)
                    nursery.start_soon(self._show_life)
                    nursery.start_soon(self._serve_runtime)
                    if not self.draining:
                        self._say_ready()
            except* WorkerStartError as group:
                for error in _leaves(group):
                    self._log.error("start_failed", f"the workers did not start: {error}")
                started = False
        self._log.info("stopped", "stopped")
        return 0 if started else 1

    async def _show_life(self) -> None:
        """Tell the service manager that this process and its workers are well, and what they see."""
        while self._service.listens:
            if self.draining or any(worker.ready.is_set() for worker in self._supervisor.workers):
                self._service.alive()
            if not self.draining:
                views = [view for health in self._health.values() for view in health.views()]
                ready = sum(view.eligible for view in views)
                self._service.status(f"{ready} of {len(views)} backends get connections")
            await trio.sleep(min(self._service.watchdog / 2 or STATUS_INTERVAL, STATUS_INTERVAL))

    async def _serve_admin(self) -> None:
        """Answer at the admin address, which a reload may change."""
        while True:
            self._sockets.close_unused()  # the one before this is among them, and nobody waits for it any more
            sock = self._sockets.admin
            with trio.CancelScope() as self._admin_scope:
                if sock is None:
                    await trio.sleep_forever()
                else:
                    await AdminServer(self).serve(trio.SocketListener(trio.socket.from_stdlib_socket(sock)))

    async def _serve_runtime(self) -> None:
        sock, text = self._runtime_socket
        if sock is not None:
            await AdminServer(self, self).serve(trio.SocketListener(trio.socket.from_stdlib_socket(sock)))
        elif text:
            advice = "set admin.socket to another path, or to off"
            self._log.warning("no_socket", f"`lbproxy drain` and the like will not reach this one: {text}; {advice}")

    def _pool_health(self, pool: Pool) -> PoolHealth:
        return PoolHealth(pool, self._log, lambda message: self._supervisor.broadcast(message))

    # -- reload ----------------------------------------------------------------------------------------------------

    async def reload(self) -> ReloadResult:
        """Read lb.yaml again and become what it says; a file that is refused changes nothing."""
        async with self._reloading:
            self._service.reloading()
            result = await self._reload()
            if not self.draining:
                self._service.ready()
        self.config_error = "\n".join(result.problems) or None
        if result.ok:
            text = f"reloaded {self.config_path}: {'; '.join(result.changes) or 'nothing has changed'}"
            self._log.info("reload", text, sha256=self.config_sha256, changes=result.changes)
        else:
            text = f"reload of {self.config_path} refused, the configuration in force stays: {result.problems[0]}"
            self._log.error("reload_failed", text, problems=result.problems)
        return result

    async def _reload(self) -> ReloadResult:
        try:
            loaded = await load_meanwhile(self.config_path)
        except ConfigError as error:
            return ReloadResult(tuple(map(str, error.problems)))
        except (OSError, subprocess.SubprocessError) as error:
            return ReloadResult((f"{self.config_path} could not be read: {error}",))
        if self.draining:  # there is no socket left to listen on
            return ReloadResult(("lbproxy is shutting down",))
        warnings = tuple(map(str, loaded.warnings))
        for warning in warnings:
            self._log.warning("config", warning)
        try:
            self._sockets.prepare(loaded.config)
        except ListenError as error:
            return ReloadResult((str(error),), warnings)
        changes = tuple(differences(self._loaded, loaded.config))
        if loaded.config.admin.socket != self._loaded.admin.socket:
            warnings += ("admin.socket holds from the next start on",)
        self.config_sha256, self.loaded_at = loaded.sha256, time.time()
        self._loaded = loaded.config
        self._apply(self._runtime_state.apply(loaded.config))
        await self._supervisor.taken_on()
        return ReloadResult((), warnings, changes)

    def _apply(self, config: Config) -> None:
        """Make a configuration the one in force; its sockets are open. In one go: nobody sees half of it."""
        admin = self._sockets.admin
        self.config = config
        self._configure_log(config.log)
        known, self._health = self._health, {}
        for pool in config.pools:
            health = known.pop(pool.name, None)
            if health is not None:
                health.configure(pool)
            else:
                health = self._pool_health(pool)
                if self._nursery is not None:
                    self._nursery.start_soon(health.run)
            self._health[pool.name] = health
        for gone in known.values():
            gone.stop()
        self._sockets.commit(config)
        self._supervisor.configure(config)
        if self._sockets.admin is admin:
            self._sockets.close_unused()
        else:
            self._admin_scope.cancel()

    def _configure_log(self, log: Log) -> None:
        self._log.configure(log.level, log.format)
        self._output.turn_access = None if log.access is None else formatter(log.access.format)

    def _reopen_log(self) -> None:
        try:
            path = self._output.reopen()
        except OSError as error:
            self._log.error("reopen_failed", f"the log could not be reopened: {error}")
        else:
            self._log.info("reopened", f"{path} was reopened" if path else "stdout is no file: nothing to reopen")

    # -- upgrade ---------------------------------------------------------------------------------------------------

    @property
    def handing_over(self) -> int:
        """Workers of the version before this one that still have connections."""
        return len(self._supervisor.predecessors)

    @property
    def upgrade_error(self) -> str | None:
        return self._upgrade.error

    async def upgrade(self, who: str) -> UpgradeResult:
        """Become the installed version; the answer comes before that. Nothing changes if there is a problem."""
        async with self._reloading:
            result = await self._upgrade.ask(who, self._text(), self._refusal())
            if not result.problem and self._nursery is not None:
                self._nursery.start_soon(self._become_successor)
            return result

    def _refusal(self) -> str:
        if self.draining:
            return "lbproxy is shutting down"
        return f"{self.handing_over} workers of {self.upgraded_from} still hand over" if self.handing_over else ""

    def _text(self) -> str:
        from lbproxy.control.config_spelling import effective  # yaml: megabytes that nothing else needs

        return effective(self._loaded)

    async def _become_successor(self) -> None:
        await trio.sleep(ANSWER_TIME)  # who asked for it is to have the answer
        async with self._reloading:
            if not self.draining:
                self._upgrade.go(self._estate(), self._supervisor.bequeath())

    def _estate(self) -> Estate:
        """What a successor is to know, but for the workers."""
        runtime, path = self._runtime_socket
        listening = {address: sock.fileno() for address, sock in self._sockets.all().items()}
        return {
            "version": __version__,
            "config": self._text(),
            "config_path": self.config_path,
            "config_sha256": self.config_sha256,
            "runtime_state": self._runtime_state.state(),
            "runtime_socket": (None if runtime is None else runtime.fileno(), path),
            "health": {name: health.state() for name, health in self._health.items()},
            "listening": listening,
            "handed_over": self._sockets.handed_over,
            "fds": [*listening.values(), *([] if runtime is None else [runtime.fileno()])],
        }

    # -- what operators do at run time (admin.runtime.Actions) ---------------------------------------------------------

    def is_set_at_runtime(self, pool: str, address: str) -> bool:
        return self._runtime_state.is_set(pool, address)

    def settled(self) -> trio.Lock:
        return self._reloading

    async def set_state(self, pool: str, addresses: Sequence[str], state: BackendState, who: str) -> None:
        for address in addresses:
            self._runtime_state.set_state(pool, address, state)
        await self._overlay("state", f"{_backends(addresses)} of pool {pool} set to {state.value} by {who}")

    async def set_weight(self, pool: str, addresses: Sequence[str], weight: int, who: str) -> None:
        for address in addresses:
            self._runtime_state.set_weight(pool, address, weight)
        await self._overlay("weight", f"{_backends(addresses)} of pool {pool} set to weight {weight} by {who}")

    async def _overlay(self, event: str, text: str) -> None:
        self._log.info(event, text)
        self._apply(self._runtime_state.apply(self._loaded))
        await self._supervisor.taken_on()

    async def find(self, wanted: messages.Find, who: str) -> messages.Found:
        found = await self._supervisor.find(wanted)
        if wanted.end:
            what = wanted.client or wanted.backend or f"pool {wanted.pool}"
            self._log.info("kick", f"{found.count} connections of {what} ended by {who}")
        return found

    # -- what the admin endpoint asks ----------------------------------------------------------------------------

    def pools(self) -> dict[str, list[BackendView]]:
        return {name: health.views() for name, health in self._health.items()}

    def fail_opens(self) -> dict[str, tuple[bool, int]]:
        return {name: (health.fail_open, health.fail_opens) for name, health in self._health.items()}

    def workers(self) -> list[WorkerView]:
        views = [WorkerView(one.number, one.pid, one.ready.is_set(), one.stats) for one in self._supervisor.workers]
        return sorted(views, key=lambda view: view.number)

    def answers(self) -> Histogram:
        return self._supervisor.answers

    def restarts(self) -> int:
        return self._supervisor.restarts

    def log_dropped(self) -> int:
        return self._output.dropped

    async def counters(self) -> messages.Stats:
        return await self._supervisor.counters()

    def known_counters(self) -> messages.Stats:
        return self._supervisor.known_counters()

    def _known_health(self) -> Iterator[messages.SetHealth | messages.SetFailOpen]:
        for health in self._health.values():
            yield from health.known()

    # -- signals -------------------------------------------------------------------------------------------------

    async def _obey(self, received: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async with trio.open_nursery() as nursery:
            async for number in received:
                name = signal.Signals(number).name
                if number == signal.SIGTERM and not self.draining:
                    nursery.start_soon(self._drain, scope)
                elif number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                    self._log.info("stop", f"{name}: stopping at once")
                    self.draining = True
                    self._sockets.close_listeners()
                    await self._supervisor.drain(0)
                    scope.cancel()
                elif number == signal.SIGHUP:
                    nursery.start_soon(self.reload)
                elif number == signal.SIGUSR2:
                    nursery.start_soon(self.upgrade, name)
                else:
                    self._reopen_log()

    async def _drain(self, scope: trio.CancelScope) -> None:
        shutdown = self.config.shutdown
        self.draining = True
        self._service.stopping()
        self._log.info("drain", f"SIGTERM: draining; connections have {shutdown.drain:g} s", delay_s=shutdown.delay)
        await trio.sleep(shutdown.delay)
        self._sockets.close_listeners()
        await self._supervisor.drain(shutdown.drain)
        scope.cancel()

    def _say_ready(self) -> None:
        self._service.ready()
        if self.upgraded_from:
            text = f"lbproxy {__version__} goes on as lbproxy {self.upgraded_from} did"
            self._log.info("upgraded", text, version=__version__, was=self.upgraded_from, workers=self.handing_over)
        addresses = [address.text for listener in self.config.listeners for address in listener.bind]
        self._log.info(
            "ready",
            f"lbproxy {__version__} listens on {', '.join(addresses)}" + self._from_the_service_manager(),
            config=self.config_path,
            sha256=self.config_sha256,
            workers=self.config.workers,
            admin=self.config.admin.bind.text if self.config.admin.bind is not None else None,
        )
        if few := few_fds():
            self._log.warning("few_fds", few)

    def _from_the_service_manager(self) -> str:
        names = [f"{address} ({name})" for address, name in self._sockets.handed_over.items()]
        return f"; handed over by the service manager: {', '.join(names)}" if names else ""


def _backends(addresses: Sequence[str]) -> str:
    return f"backend{'' if len(addresses) == 1 else 's'} {', '.join(addresses)}"


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions in a group, however nested."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error

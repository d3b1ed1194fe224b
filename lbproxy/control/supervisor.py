"""The worker processes: started, configured, replaced when they die, asked for their counters, drained."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable

import trio

from lbproxy.admin import totals
from lbproxy.admin.log import EventLog, LinePump, Output
from lbproxy.core import messages
from lbproxy.core.config import Config

STATS_INTERVAL = 1.0  # seconds between two looks at the counters
STATS_PATIENCE = 0.3  # seconds a scrape waits for a busy worker before it takes what is known
HEALTHY_AGE = 1.0  # seconds: a worker that dies younger is replaced more slowly each time
MAX_BACKOFF = 10.0
STOP_GRACE = 2.0  # seconds a worker has to exit after its drain is over, before it is killed


class WorkerStartError(Exception):
    """The first workers did not come up."""


class Worker:
    """One process and its channel. `stats` are its last known counters."""

    def __init__(self, process: trio.Process, channel: socket.socket, log_fd: int | None, config: Config) -> None:
        self.process = process
        self.pid = process.pid
        self.started = trio.current_time()
        self.ready = trio.Event()
        self.stats = totals.empty(config)
        self.answered = trio.Event()
        self.log_fd = log_fd
        self._channel = channel
        self.stream = trio.socket.from_stdlib_socket(channel)

    def send(self, message: messages.ToWorker) -> None:
        """Send without waiting; a worker that takes nothing is stuck or gone, and its replacement is told all."""
        try:
            self._channel.send(messages.encode(message))
        except OSError:
            return

    def close(self) -> None:
        self._channel.close()
        if self.log_fd is not None:
            os.close(self.log_fd)


class Supervisor:
    """Keeps `config.workers` workers running on the given listening sockets."""

    def __init__(
        self,
        config: Config,
        listening: list[list[socket.socket]],
        *,
        log: EventLog,
        output: Output,
        current_health: Callable[[], Iterable[messages.SetHealth]],
        on_backend_failed: Callable[[messages.BackendFailed], None],
    ) -> None:
        self.workers: list[Worker] = []
        self.restarts = 0
        self._config = config
        self._listening = listening
        self._log = log
        self._output = output
        self._current_health = current_health
        self._on_backend_failed = on_backend_failed
        self._retired = totals.empty(config)
        self._draining = False
        self._all_gone = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until drained. Reports started when every worker accepts. Raises WorkerStartError before that."""
        async with trio.open_nursery() as nursery:
            for number in range(self._config.workers):
                await nursery.start(self._keep, number)
            task_status.started()
            nursery.start_soon(self._look_at_counters)
            await self._all_gone.wait()
            nursery.cancel_scope.cancel()

    def broadcast(self, message: messages.ToWorker) -> None:
        """Tell every worker."""
        for worker in self.workers:
            worker.send(message)

    async def counters(self) -> messages.Stats:
        """The total over all workers, as fresh as they answer within STATS_PATIENCE."""
        waiting = []
        for worker in self.workers:
            if worker.ready.is_set():
                worker.answered = trio.Event()
                worker.send(messages.GetStats())
                waiting.append(worker.answered)
        with trio.move_on_after(STATS_PATIENCE):
            for event in waiting:
                await event.wait()
        return totals.sum_of(self._config, [self._retired, *(worker.stats for worker in self.workers)])

    async def drain(self, seconds: float) -> None:
        """Let connections end for so long, and return when all workers are gone."""
        self._draining = True
        self.broadcast(messages.Drain(seconds))
        with trio.move_on_after(seconds + STOP_GRACE):
            while self.workers:
                await self.workers[0].process.wait()
                await trio.lowlevel.checkpoint()
        for worker in self.workers:
            worker.process.kill()
        self._all_gone.set()

    async def _keep(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """One worker after another in one place."""
        first = True
        backoff = 0.0
        while True:
            worker = await self._start()
            status = task_status if first else trio.TASK_STATUS_IGNORED
            await self._attend(worker, status)
            if self._draining:
                return
            if first and not worker.ready.is_set():
                raise WorkerStartError(f"worker {number} ended before it accepted: {_ending(worker.process)}")
            first = False
            self.restarts += 1
            young = trio.current_time() - worker.started < HEALTHY_AGE
            backoff = min(max(backoff * 2, 0.1), MAX_BACKOFF) if young else 0.0
            self._log.error(
                "worker_died",
                f"worker {worker.pid} {_ending(worker.process)}; it is replaced"
                + (f" in {backoff:g} s" if young else ""),
                pid=worker.pid,
            )
            await trio.sleep(backoff)

    async def _start(self) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, messages.MAX_MESSAGE)
        log_read: int | None = None
        log_write: int | None = None
        if self._config.log.access is not None:
            log_read, log_write = os.pipe()
        fds = tuple(tuple(sock.fileno() for sock in sockets) for sockets in self._listening)
        passed = [theirs.fileno(), *(fd for listener in fds for fd in listener)]
        if log_write is not None:
            passed.append(log_write)
        # exec, not fork: a worker imports a tenth of what this process has, and shares none of its state
        command = [sys.executable, "-m", "lbproxy.dataplane.worker", str(theirs.fileno())]
        process = await trio.lowlevel.open_process(command, pass_fds=passed, stdin=subprocess.DEVNULL)
        theirs.close()
        if log_write is not None:
            os.close(log_write)
        ours.setblocking(False)
        worker = Worker(process, ours, log_read, self._config)
        worker.send(messages.Configure(self._config, fds, log_write))
        for message in self._current_health():
            worker.send(message)
        self.workers.append(worker)
        return worker

    async def _attend(self, worker: Worker, task_status: trio.TaskStatus[None]) -> None:
        """Listen to a worker until it ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, worker, task_status)
                if worker.log_fd is not None:
                    nursery.start_soon(self._pump_log, worker.log_fd)
                await worker.process.wait()
                nursery.cancel_scope.cancel()
        finally:
            if worker.process.returncode is None:
                worker.process.kill()
            self.workers.remove(worker)
            totals.add(self._retired, worker.stats, gauges=False)
            worker.close()

    async def _listen(self, worker: Worker, task_status: trio.TaskStatus[None]) -> None:
        while True:
            try:
                packet = await worker.stream.recv(messages.MAX_MESSAGE)
            except OSError:
                return
            if not packet:
                return
            message = messages.decode(packet)
            if isinstance(message, messages.Stats):
                worker.stats = message
                worker.answered.set()
            elif isinstance(message, messages.BackendFailed):
                self._on_backend_failed(message)
            elif isinstance(message, messages.Ready):
                worker.ready.set()
                task_status.started()
                self._log.info("worker_ready", f"worker {worker.pid} accepts connections", pid=worker.pid)

    async def _pump_log(self, fd: int) -> None:
        os.set_blocking(fd, False)
        pump = LinePump(self._output)
        while True:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(fd)
                continue
            if not data:
                return
            pump.feed(data)
            await trio.lowlevel.checkpoint()

    async def _look_at_counters(self) -> None:
        """So that little is lost of a worker that is killed."""
        while True:
            await trio.sleep(STATS_INTERVAL)
            await self.counters()


def _ending(process: trio.Process) -> str:
    code = process.returncode
    if code is None:
        return "did not answer"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

"""The worker processes: started, configured, replaced when they die, asked for their counters, drained."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from lbproxy.admin import totals
from lbproxy.admin.log import EventLog, Output
from lbproxy.control.board_file import BoardFile
from lbproxy.control.predecessor import Bequest, Predecessor, bequeath
from lbproxy.control.worker_log import LOG_PIPE, line_pump, pump_log, read_log
from lbproxy.control.worker_process import Socket, Worker
from lbproxy.core import messages
from lbproxy.core.config import Address, Config, Listener
from lbproxy.core.histogram import Histogram

STATS_INTERVAL = 1.0  # seconds between two looks at the counters
STATS_PATIENCE = 0.3  # seconds a scrape waits for a busy worker before it takes what is known
HEALTHY_AGE = 1.0  # seconds: a worker that dies younger is replaced more slowly each time
MAX_BACKOFF = 10.0
FIND_PATIENCE = 2.0  # seconds
TAKE_ON_PATIENCE = 5.0  # seconds
HUNG = 10.0  # seconds without an answer after which a worker is killed, as HAProxy's watchdog does with a thread
START_PATIENCE = 30.0  # seconds a worker has to accept, before it is killed
STOP_GRACE = 2.0  # seconds a worker has to exit after its drain is over, before it is killed


class WorkerStartError(Exception):
    """The first workers did not come up."""


@dataclass(frozen=True, slots=True)
class Life:
    """What became of a worker: whether it ever accepted, and how it ended, as in "worker 17 ..."."""

    pid: int | None
    accepted: bool
    ending: str
    left: bool = False  # as it was told to


class Supervisor:
    """Keeps `config.workers` workers running on the given listening sockets."""

    def __init__(
        self,
        config: Config,
        listening: Callable[[Listener], list[socket.socket]],
        *,
        log: EventLog,
        output: Output,
        current_health: Callable[[], Iterable[messages.SetHealth | messages.SetFailOpen]],
        on_backend_failed: Callable[[messages.BackendFailed], None],
        predecessors: Iterable[Bequest] = (),
        on_counters: Callable[[messages.Stats], None] = lambda stats: None,
    ) -> None:
        self.workers: list[Worker] = []
        self.restarts = 0
        self.answers = Histogram()  # how long workers take to say what they have counted
        self._config = config
        self._listening = listening
        self._log = log
        self._output = output
        self._current_health = current_health
        self._on_backend_failed = on_backend_failed
        self._on_counters = on_counters
        self._retired = totals.empty(config)
        self._board = BoardFile(config) if config.workers > 1 else None
        self._generation = 0
        self._finding = trio.Lock()
        self.predecessors = [Predecessor(one) for one in predecessors]
        self._places: set[int] = set()  # of the workers that are kept running
        self._draining = False
        self._all_gone = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until drained. Reports started when every worker accepts. Raises WorkerStartError before that."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            async with trio.open_nursery() as starting:
                for number in range(self._config.workers):
                    starting.start_soon(nursery.start, self._keep, number)
            task_status.started()
            heirs = [] if self._draining else self.workers  # a stop may have come meanwhile: then nobody takes over
            for index, predecessor in enumerate(self.predecessors):
                nursery.start_soon(self._succeed, predecessor, heirs[index % len(heirs)] if heirs else None)
            nursery.start_soon(self._look_at_counters)
            await self._all_gone.wait()
            nursery.cancel_scope.cancel()

    def configure(self, config: Config) -> None:
        """Have all workers, those to come included, take on a configuration whose sockets are open."""
        old, self._config = self._config, config
        self._generation += 1
        board, self._board = self._board, BoardFile(config) if config.workers > 1 else None
        self._retired = totals.reshape(self._retired, old, config)
        for worker in list(self.workers):
            self._reconfigure(worker)
        if board is not None:
            board.close()
        self._let_go(config)
        running = {worker.number for worker in self.workers} | self._places
        for number in range(config.workers):
            if number not in running and self._nursery is not None:
                self._nursery.start_soon(self._keep, number)

    def _let_go(self, config: Config) -> None:
        """Have the workers that are too many give their connections to those that stay."""
        staying = [worker for worker in self.workers if not worker.leaving]
        heirs = [worker for worker in staying if worker.number < config.workers and worker.ready.is_set()]
        seconds = config.shutdown.drain
        for number, worker in enumerate(one for one in staying if one.number >= config.workers):
            worker.leaving = True
            if not heirs or not worker.hand_over_to(heirs[number % len(heirs)], seconds):
                worker.send(messages.Drain(seconds))

    def _reconfigure(self, worker: Worker) -> None:
        """Tell a worker of the configuration in force, which may be newer than the one it started with."""
        config = self._config
        place = None if self._board is None else self._board.take()
        fds: list[int] = []
        held: dict[Socket, socket.socket] = {}
        listen = []
        for listener in config.listeners:
            numbers = []
            for address, sock in zip(listener.bind, self._listening(listener), strict=True):
                key = _socket(listener, address)
                held[key] = sock
                if worker.held.get(key) is sock:
                    numbers.append(messages.KEPT)
                else:
                    numbers.append(len(fds))
                    fds.append(sock.fileno())
            listen.append(tuple(numbers))
        if place is not None:
            fds.append(place.fd)
        health = tuple(self._current_health())
        message = messages.Reconfigure(self._generation, config, tuple(listen), place, health)
        worker.stats = totals.reshape(worker.stats, worker.config, config)
        worker.config, worker.held, worker.place = config, held, place
        if len(fds) > messages.MAX_FDS or not worker.send_with(message, fds):
            self._log.error("worker_stuck", f"worker {worker.pid} did not take the configuration: it is replaced")
            worker.process.kill()

    async def taken_on(self) -> None:
        """Wait until every worker that accepts has taken on the configuration in force, TAKE_ON_PATIENCE at most."""
        with trio.move_on_after(TAKE_ON_PATIENCE):
            for worker in list(self.workers):
                while worker in self.workers and worker.ready.is_set() and worker.generation != self._generation:
                    await worker.ask().wait()
                    await trio.sleep(0.01)  # the answer was to an earlier question, or its channel is full

    def bequeath(self) -> list[Bequest]:
        """Have all workers wait for successors; what those need."""
        bequests = (bequeath(worker, self._config.shutdown.drain) for worker in self.workers)
        return [one for one in bequests if one is not None]

    async def _succeed(self, predecessor: Predecessor, worker: Worker | None) -> None:
        if worker is None or not predecessor.hand_over_to(worker):
            predecessor.let_go()
        await predecessor.attend(self._output, self._log)
        self.predecessors.remove(predecessor)

    def broadcast(self, message: messages.ToWorker) -> None:
        """Tell every worker."""
        for worker in self.workers:
            if not worker.send(message):
                worker.behind = True

    async def counters(self) -> messages.Stats:
        """The total over all workers, as fresh as they answer within STATS_PATIENCE."""
        waiting = [worker.ask() for worker in self.workers if worker.ready.is_set()]
        with trio.move_on_after(STATS_PATIENCE):
            for event in waiting:
                await event.wait()
        return self.known_counters()

    def known_counters(self) -> messages.Stats:
        """The same, as the workers have last told."""
        return totals.sum_of(self._config, [self._retired, *(worker.stats for worker in self.workers)])

    async def find(self, wanted: messages.Find) -> messages.Found:
        """The client connections that match, in all workers that answer within FIND_PATIENCE."""
        async with self._finding:
            asked = [worker for worker in self.workers if worker.ready.is_set()]
            send, receive = trio.open_memory_channel[messages.Found](len(asked))
            found: list[messages.Found] = []
            with send, receive:
                waiting = 0
                for worker in asked:
                    worker.found = send
                    waiting += worker.send(wanted)
                with trio.move_on_after(FIND_PATIENCE):
                    while len(found) < waiting:
                        found.append(await receive.receive())
                for worker in asked:
                    worker.found = None
        return messages.Found(sum(one.count for one in found), tuple(row for one in found for row in one.rows))

    async def drain(self, seconds: float) -> None:
        """Let connections end for so long, and return when all workers are gone. A second call may shorten it."""
        self._draining = True
        self.broadcast(messages.Drain(seconds))
        for predecessor in self.predecessors:
            predecessor.let_go()
        with trio.move_on_after(seconds + STOP_GRACE):
            while self.workers:
                await self.workers[0].process.wait()
                await trio.lowlevel.checkpoint()
            while self.predecessors:
                await trio.sleep(0.05)
        for worker in self.workers:
            worker.process.kill()
        for predecessor in self.predecessors:
            predecessor.kill()
        self._all_gone.set()

    async def _keep(self, number: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One worker after another in one place."""
        accepted = False
        backoff = 0.0
        self._places.add(number)
        while True:
            began = trio.current_time()
            life = await self._live(number, trio.TASK_STATUS_IGNORED if accepted else task_status)
            accepted = accepted or life.accepted
            if self._draining or number >= self._config.workers:
                break
            if not accepted:
                raise WorkerStartError(f"worker {number} {life.ending}")
            if life.left:  # it was one too many, and is wanted again
                continue
            self.restarts += 1
            young = trio.current_time() - began < HEALTHY_AGE
            backoff = min(max(backoff * 2, 0.1), MAX_BACKOFF) if young else 0.0
            self._log.error(
                "worker_died",
                f"worker {life.pid or number} {life.ending}; it is replaced" + (f" in {backoff:g} s" if young else ""),
                pid=life.pid,
            )
            await trio.sleep(backoff)
        self._places.discard(number)
        if not accepted:
            task_status.started()  # stopped while it started: nobody is to wait for it

    async def _live(self, number: int, task_status: trio.TaskStatus[None]) -> Life:
        """One worker from its start to its end."""
        if self._draining:
            return Life(None, False, "is not wanted any more")
        try:
            worker = await self._start(number)
        except OSError as error:  # no memory, no processes, no descriptors: it may pass
            return Life(None, False, f"could not be started: {error.strerror or error}")
        await self._attend(worker, task_status)
        return Life(worker.pid, worker.ready.is_set(), worker.ending, worker.leaving)

    async def _start(self, number: int) -> Worker:
        config, generation = self._config, self._generation
        sockets = {listener: self._listening(listener) for listener in config.listeners}
        fds = tuple(tuple(sock.fileno() for sock in each) for each in sockets.values())
        with contextlib.ExitStack() as mine, contextlib.ExitStack() as childs:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            mine.enter_context(ours)
            childs.enter_context(theirs)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, messages.MAX_MESSAGE)
            ours.setblocking(False)
            passed = [theirs.fileno(), *(fd for listener in fds for fd in listener)]
            place = None if self._board is None else self._board.take()
            if place is not None:
                passed.append(place.fd)
                mine.callback(self._leave_board, place)
            log_read, log_write = os.pipe()
            with contextlib.suppress(OSError):  # the user's pipes have used up fs.pipe-user-pages-soft
                fcntl.fcntl(log_read, fcntl.F_SETPIPE_SZ, LOG_PIPE)
            mine.callback(os.close, log_read)
            childs.callback(os.close, log_write)
            os.set_blocking(log_read, False)
            passed.append(log_write)
            # exec, not fork: a worker imports a tenth of what this process has, and shares none of its state
            command = [sys.executable, "-m", "lbproxy.dataplane.worker", str(theirs.fileno())]
            process = await trio.lowlevel.open_process(
                command, pass_fds=passed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log_write
            )
            mine.pop_all()
        worker = Worker(number, process, ours, log_read, config)
        worker.place = place
        worker.held = {
            _socket(listener, address): sock
            for listener, each in sockets.items()
            for address, sock in zip(listener.bind, each, strict=True)
        }
        known = tuple(self._current_health()) if generation == self._generation else ()
        worker.send(messages.Configure(config, fds, log_write, place, known, generation))
        self.workers.append(worker)
        if generation != self._generation:  # since we began: its numbers of backends are old ones
            self._reconfigure(worker)
        if self._draining:  # since we began: it has missed the order
            process.kill()
        return worker

    async def _attend(self, worker: Worker, task_status: trio.TaskStatus[None]) -> None:
        """Listen to a worker until it ends."""
        pump = line_pump(self._output, self._log, worker.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, worker, task_status)
                nursery.start_soon(_expect_ready, worker)
                nursery.start_soon(pump_log, worker.log_fd, pump)
                await worker.process.wait()
                nursery.cancel_scope.cancel()
        finally:
            if worker.process.returncode is None:
                worker.process.kill()
            else:
                while read_log(worker.log_fd, pump):  # its last lines; the pipe holds no more than its size
                    pass
            self.workers.remove(worker)
            totals.add(self._retired, worker.stats, gauges=False)
            worker.close()
            if worker.place is not None:
                self._leave_board(worker.place)

    def _leave_board(self, place: messages.Place) -> None:
        if self._board is not None and self._board.has(place):
            self._board.give(place)

    async def _listen(self, worker: Worker, task_status: trio.TaskStatus[None]) -> None:
        while True:
            try:
                packet = await worker.stream.recv(messages.MAX_MESSAGE)
            except OSError:
                return
            if not packet:
                return
            message = worker.inbox.take(packet)
            if isinstance(message, messages.Stats):
                worker.generation = message.generation
                self.answers.note(worker.silent_for)
                worker.answer(message if message.generation == self._generation else worker.stats)
                if worker.behind:  # it is alive again: what it has missed of the health is told anew
                    worker.behind = not all(worker.send(health) for health in self._current_health())
            elif isinstance(message, messages.BackendFailed):
                if message.generation == self._generation:
                    self._on_backend_failed(message)
            elif isinstance(message, messages.Found):
                if worker.found is not None:
                    with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                        worker.found.send_nowait(message)
            elif isinstance(message, messages.TakenOver):
                text = f"worker {worker.pid} has taken over {message.connections} connections"
                self._log.info("taken_over", text, pid=worker.pid, connections=message.connections)
            elif isinstance(message, messages.Ready):
                worker.ready.set()
                task_status.started()
                self._log.info("worker_ready", f"worker {worker.pid} accepts connections", pid=worker.pid)

    async def _look_at_counters(self) -> None:
        """So that little is lost of a worker that is killed; and one that does not answer is of no use to anybody."""
        while True:
            slept_at = trio.current_time()
            await trio.sleep(STATS_INTERVAL)
            self._on_counters(await self.counters())
            if trio.current_time() - slept_at < 2 * STATS_INTERVAL:  # else it is us who have been away
                for worker in self.workers:
                    if worker.ready.is_set() and worker.silent_for > HUNG:
                        self._log.error(
                            "worker_hung",
                            f"worker {worker.pid} has not answered for {HUNG:g} s: it is killed, and replaced",
                            pid=worker.pid,
                        )
                        worker.process.kill()


def _socket(listener: Listener, address: Address) -> Socket:
    """What a worker keeps by: the socket of an address stays only in the same listener."""
    return listener.name, listener.mode, listener.pool, address.text


async def _expect_ready(worker: Worker) -> None:
    with trio.move_on_after(START_PATIENCE):
        await worker.ready.wait()
        return
    worker.process.kill()

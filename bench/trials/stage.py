"""What a trial plays on: a contender that has just been started, in front of backends that do as they are told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import cpu
from bench.backends import start_backends
from bench.contenders import Contender, Place
from bench.field import BACKENDS, READY_SECONDS, Cpus
from bench.load import Load, LoadError, probe, run_wrk
from bench.process import Process, free_ports
from bench.scenarios import SCENARIOS
from bench.trials.origin_process import PATIENCE, Origin

SOURCES = 8  # addresses of 127.0.0.0/8 that clients connect from: one has ports for some 28,000 connections
_KEPT = next(each for each in SCENARIOS if not each.close and not each.bulk)
_CLOSED = next(each for each in SCENARIOS if each.close)
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen at connect, for the pair of addresses


@dataclass(slots=True)
class Ledger:
    """CPU time of everything that a trial has started: what else the machine did is others' noise."""

    spent_ns: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One contender and its backends. `process` is None for direct."""

    place: Place
    process: Process | None
    backends: Origin | Process
    port: int
    full: bool  # the sizes that are to be quoted, and not those of a quick look

    @property
    def origin(self) -> Origin:
        """The backends of a stage that was not asked to have plain ones."""
        assert isinstance(self.backends, Origin)
        return self.backends

    def pids(self) -> tuple[int, ...]:
        """The contender's processes."""
        return self.process.pids() if self.process else ()

    def cpu_ns(self) -> int:
        """CPU time of the contender so far."""
        return cpu.family_cpu_ns(self.pids())

    def memory(self) -> dict[str, int]:
        """Bytes of memory of the contender: what its processes have resident, each page of each of them."""
        found = {}
        for number, pid in enumerate(self.pids()):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found[f"process {number}"] = int(text.split("Rss:")[1].split()[0]) * 1024
        return found

    def wrk(self, seconds: int, *, close: bool = False, connections: int = 64) -> tuple[Load, int]:
        """A closed loop of small requests; what wrk saw, and its errors, of which wrong bytes are one."""
        scenario = _CLOSED if close else _KEPT
        size = probe(scenario, self.port)
        load = run_wrk(scenario, self.port, connections, seconds)
        if not load.requests:
            raise LoadError(f"nothing was answered: {load.errors}")
        return load, load.failed + (not load.has_every_byte(size, connections + load.failed))

    def connect(self, count: int, first: int = 0, receive_buffer: int = 0) -> list[socket.socket]:
        """So many connections, from several addresses; `first` are open already. Raises LoadError."""
        made = []
        try:
            for number in range(count):
                sock = socket.socket()
                made.append(sock)
                sock.settimeout(PATIENCE)
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                if receive_buffer:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                sock.bind((f"127.0.1.{1 + (first + number) % SOURCES}", 0))
                sock.connect(("127.0.0.1", self.port))
        except OSError as error:
            close_all(made)
            raise LoadError(f"connection {len(made)} of {count}: {error}") from error
        return made


def close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


@contextmanager
def stage(
    contender: Contender,
    directory: Path,
    cpus: Cpus,
    ledger: Ledger,
    *,
    full: bool,
    workers: int = 1,
    log: bool = False,
    plain: bool = False,
) -> Iterator[Stage]:
    """Start everyone, wait until requests are answered, and stop them. Raises LoadError, OSError.

    `plain`: the backends are nginx, as in the scenarios, and not the ones that hold streams.
    """
    *ports, port, admin = free_ports(BACKENDS + 2)
    place = Place(directory, port, ports, workers, log, admin)
    backends = start_backends(directory, ports, cpus.rest) if plain else Origin(ports, cpus.rest)
    process = None
    try:
        # A contender that finds nobody at a port may leave that backend out for ten seconds, one worker of it at that.
        for each in ports:
            _wait_until_it_answers(each, None, times=1)
        if contender.command:
            file = directory / f"{contender.name}-{port}.conf"
            file.write_text(contender.configure(place))
            argv = [str(file) if word == "{config}" else word for word in contender.command]
            on = cpus.contender if workers == 1 else cpus.all
            process = Process.start(f"{contender.name}-{port}", argv, directory, on)
        reached = port if contender.command else ports[0]
        _wait_until_it_answers(reached, process, times=2 * BACKENDS)  # every backend has been found to be up
        yield Stage(place, process, backends, reached, full)
    finally:
        _close_books(ledger, process, backends)


def _close_books(ledger: Ledger, process: Process | None, backends: Origin | Process) -> None:
    """End both, and note what they have used, once: what ends is counted among this process's children as well."""
    for each in (process, backends):
        if each is not None:
            with suppress(ProcessLookupError, FileNotFoundError):  # it has ended by itself
                ledger.spent_ns += cpu.spent_ns(each.pids())
            before = cpu.children_ns()
            each.stop()
            ledger.spent_ns -= cpu.children_ns() - before


def ask(sock: socket.socket, target: str = "/") -> bytes:
    """One small request; what came of the answer with the first packet."""
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n".encode())
    return sock.recv(65536)


def _wait_until_it_answers(port: int, process: Process | None, times: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    good = 0
    while good < times:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as sock:
                good = good + 1 if b" 200 " in ask(sock) else 0
        except OSError:
            good = 0
        if not good:
            if time.monotonic() > deadline or (process is not None and process.ended):
                words = process.last_words() if process is not None else ""
                raise LoadError(f"it is not ready\n{words}")
            time.sleep(0.05)

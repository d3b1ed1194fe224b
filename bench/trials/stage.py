"""What a trial plays on: a contender that has just been started, in front of backends that do as they are told."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import cpu
from bench.contenders import Contender, Place
from bench.field import BACKENDS, READY_SECONDS, Cpus
from bench.load import LoadError
from bench.machine import ROOT
from bench.process import Process, free_ports, running_on

PATIENCE = 30.0  # seconds for what a contender should do in one
SOURCES = 8  # addresses of 127.0.0.0/8 that clients connect from: one has ports for some 28,000 connections


class Origin:
    """The process of origin.py."""

    def __init__(self, ports: Sequence[int], cpus: set[int]) -> None:
        with running_on(cpus):
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "bench.trials.origin", *map(str, ports)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                cwd=ROOT,
                text=True,
            )

    def pids(self) -> tuple[int, ...]:
        return (self._popen.pid,)

    def streams(self) -> int:
        """How many streams are open at the backends."""
        self.say("streams")
        return int(self.answer())

    def emit(self, count: int, apart: float) -> None:
        """Send events to all; answer() tells when the last one is out."""
        self.say(f"emit {count} {apart}")

    def say(self, command: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(command + "\n")
        self._popen.stdin.flush()

    def answer(self) -> str:
        """The next line. Raises LoadError: none came."""
        assert self._popen.stdout is not None
        if not select.select([self._popen.stdout], [], [], PATIENCE)[0]:
            raise LoadError("the trial's backends do not answer")
        return self._popen.stdout.readline()

    def stop(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()
        self._popen.kill()
        self._popen.wait()


@dataclass(frozen=True, slots=True)
class Stage:
    """One contender and its backends. `process` is None for direct."""

    place: Place
    process: Process | None
    origin: Origin
    port: int
    full: bool  # the sizes that are to be quoted, and not those of a quick look

    def cpu_ns(self) -> int:
        """CPU time of the contender so far."""
        return cpu.family_cpu_ns(self.process.pids()) if self.process else 0

    def memory(self) -> dict[str, int]:
        """Bytes of memory of the contender: what its processes have resident, each page of each of them."""
        found = {}
        for number, pid in enumerate(self.process.pids() if self.process else ()):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found[f"process {number}"] = int(text.split("Rss:")[1].split()[0]) * 1024
        return found

    def connect(self, count: int, first: int = 0) -> list[socket.socket]:
        """So many connections, from several addresses; `first` are open already. Raises LoadError."""
        made = []
        try:
            for number in range(count):
                sock = socket.socket()
                made.append(sock)
                sock.settimeout(PATIENCE)
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((f"127.0.1.{1 + (first + number) % SOURCES}", 0))
                sock.connect(("127.0.0.1", self.port))
        except OSError as error:
            close_all(made)
            raise LoadError(f"connection {len(made)} of {count}: {error}") from error
        return made


_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen at connect, for the pair of addresses


def close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


@contextmanager
def stage(
    contender: Contender, directory: Path, cpus: Cpus, *, full: bool, workers: int = 1, log: bool = False
) -> Iterator[Stage]:
    """Start everyone, wait until requests are answered, and stop them. Raises LoadError, OSError."""
    ports = free_ports(BACKENDS + 1)
    place = Place(directory, ports[-1], ports[:-1], workers, log)
    origin = Origin(place.backends, cpus.rest)
    process = None
    try:
        if contender.command:
            file = directory / f"{contender.name}.conf"
            file.write_text(contender.configure(place))
            argv = [str(file) if word == "{config}" else word for word in contender.command]
            process = Process.start(contender.name, argv, directory, cpus.contender if workers == 1 else cpus.all)
        port = place.port if contender.command else place.backends[0]
        _wait_until_it_answers(port, process)
        yield Stage(place, process, origin, port, full)
    finally:
        if process is not None:
            process.stop()
        origin.stop()


def ask(sock: socket.socket, target: str = "/") -> bytes:
    """One small request; what came of the answer with the first packet."""
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n".encode())
    return sock.recv(65536)


def _wait_until_it_answers(port: int, process: Process | None) -> None:
    deadline = time.monotonic() + READY_SECONDS
    good = 0
    while good < 2 * BACKENDS:  # every backend has been found to be up
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

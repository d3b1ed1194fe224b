"""Processes that the benchmark starts: on chosen CPUs, in groups of their own, and never left behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import family_of

STOP_SECONDS = 3.0
PORTS = range(24000, 32000)


@dataclass(frozen=True, slots=True)
class Process:
    """A started program and its children. Everything it says is in the file `log`."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, argv: Sequence[str], directory: Path, cpus: set[int]) -> Process:
        """Start it on these CPUs. Raises OSError: it cannot be run."""
        log = directory / f"{name}.log"
        with log.open("wb") as output, running_on(cpus):
            # A session of its own: Ctrl-C reaches the benchmark alone, which then ends its processes in order.
            popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        return cls(name, popen, log)

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    def pids(self) -> tuple[int, ...]:
        """It and its descendants. Raises ProcessLookupError: it has ended."""
        return family_of(self.popen.pid)

    def last_words(self) -> str:
        """The end of its log, for a message about its failure."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:]) or "(it said nothing)"

    def stop(self) -> None:
        """End it and its group within STOP_SECONDS."""
        group = self.popen.pid
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)  # what did not end, and children that outlived their parent
        self.popen.wait(STOP_SECONDS)


@contextmanager
def running_on(cpus: set[int]) -> Iterator[None]:
    """Let what is started inside inherit this CPU affinity; preexec_fn would be unsafe beside other threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count: int) -> list[int]:
    """TCP ports that were free on 127.0.0.1 a moment ago.

    From below the range that the kernel takes clients' ports from: with thousands of clients, one of those would be
    theirs a moment later. Raises OSError if there are not so many.
    """
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"only {len(found)} ports from {PORTS[0]} to {PORTS[-1]} are free")

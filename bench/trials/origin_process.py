"""The process of origin.py, and what can be asked of it."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Sequence

from bench.load import LoadError
from bench.machine import ROOT
from bench.process import running_on

PATIENCE = 30.0  # seconds for what a process should do in one


class Origin:
    """Started at once; it may not listen yet."""

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

    def poured(self) -> int:
        """Bytes of endless bodies that the kernel has taken."""
        self.say("poured")
        return int(self.answer())

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

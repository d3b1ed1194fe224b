"""A child process of the demo: started so that it cannot outlive us, waited for without threads."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence

import trio

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
STOP_SECONDS = 3.0
"""What a child has between being asked to stop and SIGKILL."""

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Runs in the child before it becomes the program: should the demo be killed -9, the kernel stops its children."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """`start` it in the main thread: the kernel's "parent" that PR_SET_PDEATHSIG watches is a thread."""

    def __init__(self, command: Sequence[str], *, stop_signal: signal.Signals, stdout: int | None = None) -> None:
        self._stop_signal = stop_signal
        # A group of its own: the terminal sends Ctrl-C to the demo only, which then stops the others in order.
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, process_group=0, preexec_fn=_die_with_parent
        )
        self._pidfd = os.pidfd_open(self.process.pid)
        self._output: trio.lowlevel.FdStream | None = None
        self._buffer = b""
        if self.process.stdout is not None:
            self._output = trio.lowlevel.FdStream(os.dup(self.process.stdout.fileno()))
            self.process.stdout.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def next_line(self) -> str | None:
        """The next line it prints (with `stdout=PIPE`); None when it has closed its output."""
        assert self._output is not None
        while b"\n" not in self._buffer:
            data = await self._output.receive_some(4096)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    async def wait(self) -> int:
        """Its exit status, negative for a signal."""
        if self.process.returncode is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._output is not None:
            self._output.close()
        return code

    async def stop(self) -> None:
        """Ask, wait, insist. Not cancelled halfway: a child must not be left behind."""
        with trio.CancelScope(shield=True):
            if self.process.poll() is None:
                self.process.send_signal(self._stop_signal)
                with trio.move_on_after(STOP_SECONDS) as scope:
                    await trio.lowlevel.wait_readable(self._pidfd)
                if scope.cancelled_caught:
                    self.process.kill()
            self._reap()

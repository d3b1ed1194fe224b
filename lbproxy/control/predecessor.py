"""A worker of the version before an upgrade, while it hands its connections over.

It is a child of this process, which has become another program meanwhile. Nothing is said to it: its messages are those
of its own version. When its channel is closed it drains and ends, as without a control plane.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass

import trio

from lbproxy.admin.log import EventLog, Output
from lbproxy.control.worker_log import line_pump, pump_log, read_log
from lbproxy.control.worker_process import Worker
from lbproxy.core import messages


@dataclass(frozen=True, slots=True)
class Bequest:
    """What a successor needs of a worker: descriptors, of which `giver` is the other end of the one it was given."""

    pid: int
    channel: int
    log: int
    taker: int

    @property
    def fds(self) -> tuple[int, int, int]:
        return self.channel, self.log, self.taker


def bequeath(worker: Worker, seconds: float) -> Bequest | None:
    """Have a worker wait for a hello; None if it does not listen."""
    giver, taker = socket.socketpair()
    with giver:
        if worker.send_with(messages.HandOver(seconds), [giver.fileno()]):
            return Bequest(worker.pid, worker.channel_fd, worker.log_fd, taker.detach())
    taker.close()
    return None


class Predecessor:
    """One of them. It is over when attend() returns."""

    def __init__(self, bequest: Bequest) -> None:
        self.pid = bequest.pid
        self._log = bequest.log
        self._channel = socket.socket(fileno=bequest.channel)
        self._taker = socket.socket(fileno=bequest.taker)

    def hand_over_to(self, worker: Worker) -> bool:
        """Have a worker say hello."""
        with self._taker:
            return worker.send_with(messages.TakeOver(), [self._taker.fileno()])

    async def attend(self, output: Output, log: EventLog) -> None:
        """Pass its log on until it ends."""
        pump = line_pump(output, log, self.pid)
        process = os.pidfd_open(self.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump_log, self._log, pump)
                await trio.lowlevel.wait_readable(process)
                nursery.cancel_scope.cancel()
            while read_log(self._log, pump):
                pass
            os.waitpid(self.pid, 0)  # noqa: ASYNC222
        finally:
            os.close(process)
            os.close(self._log)
            self.let_go()

    def let_go(self) -> None:
        """Have it drain by itself."""
        self._channel.close()
        self._taker.close()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

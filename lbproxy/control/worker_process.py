"""One worker process, as the control plane sees it: its channel, its last counters, and whether it answers."""

from __future__ import annotations

import math
import os
import signal
import socket

import trio

from lbproxy.admin import totals
from lbproxy.core import messages
from lbproxy.core.config import Config, Mode

PATIENCE = 1.0  # seconds that a worker may take to make room for a configuration

Socket = tuple[str, Mode, str, str]  # which one: its listener's name, mode and pool, and its address


class Worker:
    """One process and its channel. `stats` are its last known counters; `number` is its place among the workers."""

    def __init__(self, number: int, process: trio.Process, channel: socket.socket, log_fd: int, config: Config) -> None:
        self.number = number
        self.process = process
        self.pid = process.pid
        self.ready = trio.Event()
        self.config = config  # what it runs with
        self.held: dict[Socket, socket.socket] = {}  # what it listens on
        self.stats = totals.empty(config)
        self.generation = -1  # of the configuration that its last answer was about
        self.inbox = messages.Inbox()
        self.log_fd = log_fd
        self.stream = trio.socket.from_stdlib_socket(channel)
        self._channel = channel
        self._asked: trio.Event | None = None
        self.found: trio.MemorySendChannel[messages.Found] | None = None  # who waits for an answer
        self._asked_at = math.inf  # when a question was asked that is not answered
        self.place: messages.Place | None = None
        self.leaving = False  # it is one too many, and has been told to give its connections away
        self.behind = False  # it was stuck, its channel was full, and it has missed something

    def send(self, message: messages.ToWorker) -> bool:
        """Send without waiting; a worker that takes nothing is stuck or gone, and its replacement is told all."""
        try:
            self._channel.send(messages.encode(message))
        except OSError:
            return False
        return True

    def send_with(self, message: messages.ToWorker, fds: list[int]) -> bool:
        """As send(), with descriptors. Waits for room: whoever misses this one is of no use."""
        self._channel.settimeout(PATIENCE)
        try:
            socket.send_fds(self._channel, [messages.encode(message)], fds)
        except OSError:
            return False
        finally:
            self._channel.setblocking(False)
        return True

    def hand_over_to(self, other: Worker, seconds: float) -> bool:
        """Have it give all its connections to another worker, and end. False: one of the two does not listen."""
        giver, taker = socket.socketpair()
        with giver, taker:
            return other.send_with(messages.TakeOver(), [taker.fileno()]) and self.send_with(
                messages.HandOver(seconds), [giver.fileno()]
            )

    def ask(self) -> trio.Event:
        """Ask for the counters; the event is set when they have come.

        One question is open at a time: they would fill the channel of a stuck worker, which then misses what matters.
        """
        if self._asked is None:
            self._asked = trio.Event()
            self._asked_at = min(self._asked_at, trio.current_time())
            if not self.send(messages.GetStats()):
                self._asked.set()
        asked = self._asked
        if asked.is_set():
            self._asked = None
        return asked

    @property
    def channel_fd(self) -> int:
        return self._channel.fileno()

    @property
    def silent_for(self) -> float:
        """Seconds since a question that is still open was asked."""
        return max(trio.current_time() - self._asked_at, 0.0)

    @property
    def ending(self) -> str:
        """How it ended, as in "worker 17 ..."."""
        code = self.process.returncode
        if code is None:
            return "did not answer"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def answer(self, stats: messages.Stats) -> None:
        """The counters have come."""
        self.stats = stats
        self._asked_at = math.inf
        if self._asked is not None:
            self._asked.set()
            self._asked = None

    def close(self) -> None:
        self._channel.close()
        os.close(self.log_fd)

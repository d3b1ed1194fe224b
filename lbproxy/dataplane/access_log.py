"""Access-log lines on their way to the control plane's pump: one write per batch, never a wait.

Lines go into a non-blocking pipe. When the pipe is full the reader is too slow, and then lines are dropped and
counted: a slow stdout must not slow the traffic down.
"""

from __future__ import annotations

import os
import time

from lbproxy.core.config import AccessLog as AccessLogConfig
from lbproxy.core.config import LogPoint
from lbproxy.dataplane.reactor import Reactor

HELD = 256 * 1024  # bytes kept while the pipe is full


class AccessLog:
    """`at_open` and `at_close` say which lines are wanted; `write` takes one JSON object without the time."""

    __slots__ = ("_fd", "_lines", "_reactor", "_rest", "_stamp", "_stamped", "at_close", "at_open", "dropped")

    def __init__(self, fd: int, reactor: Reactor) -> None:
        os.set_blocking(fd, False)
        self.at_open = self.at_close = False
        self.dropped = 0
        self._fd = fd
        self._reactor = reactor
        self._lines: list[str] = []
        self._rest = b""
        self._stamped = 0.0
        self._stamp = ""

    def configure(self, config: AccessLogConfig | None) -> AccessLog | None:
        """Take on what lb.yaml says; gives itself back, or None if no lines are wanted at all."""
        self.at_open = config is not None and LogPoint.OPEN in config.at
        self.at_close = config is not None and LogPoint.CLOSE in config.at
        return self if self.at_open or self.at_close else None

    def write(self, fields: str) -> None:
        """Queue `{"ts": now, fields}`."""
        now = self._reactor.timers.now
        if now != self._stamped:  # once per batch of events
            self._stamped = now
            self._stamp = _stamp(time.time())
        if not self._lines:
            self._reactor.at_batch_end(self._flush)
        self._lines.append(f'{{"ts":"{self._stamp}",{fields}}}\n')

    def say(self, line: str) -> None:
        """Write a line that is none of the access log's, now."""
        self._lines.append(line + "\n")
        self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if len(self._rest) > HELD:
            self.dropped += len(lines)
        else:
            self._rest += "".join(lines).encode()
        try:
            written = os.write(self._fd, self._rest)
        except BlockingIOError:
            return
        except OSError:  # the control plane is gone; so will this worker be, soon
            self._rest = b""
            return
        self._rest = self._rest[written:]


def _stamp(now: float) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"

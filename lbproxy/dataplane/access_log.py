"""Access-log lines on their way to the control plane's pump: one write per batch, never a wait.

Lines go into a non-blocking pipe. When the pipe is full the reader is too slow, and then lines are dropped and
counted: a slow stdout must not slow the traffic down.

A request is put into words at the end of its batch, with all others of it. In the midst of an exchange nothing that
this needs is in the CPU's caches, and a line costs three times as much: 3 µs instead of 1.
"""

from __future__ import annotations

import os
import time

from lbproxy.core.config import AccessLog as AccessLogConfig
from lbproxy.core.config import LogPoint
from lbproxy.core.http1 import RequestLine
from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.timers import NEVER, UNFILED

HELD = 256 * 1024  # bytes kept while the pipe is full
RETRY = 0.1  # seconds until they are offered again, if no line comes before
NORMAL = Termination.NORMAL

# Taken apart in _worded. A tuple, because anything with names takes 0.3 µs more to make.
Request = tuple[
    str, str, int, RequestLine | None, int, Peer | None, str, float, float, float, int, int, bool, Termination
]


class AccessLog:
    """`at_open` and `at_close` say which lines are wanted; `write` takes one JSON object without the time."""

    __slots__ = (
        "_entries",
        "_fd",
        "_reactor",
        "_rest",
        "_second",
        "_stamp",
        "at_close",
        "at_open",
        "deadline",
        "dropped",
        "filed",
    )

    def __init__(self, fd: int, reactor: Reactor) -> None:
        os.set_blocking(fd, False)
        self.at_open = self.at_close = False
        self.dropped = 0
        self.deadline = NEVER
        self.filed = UNFILED
        self._fd = fd
        self._reactor = reactor
        self._entries: list[str | Request] = []
        self._rest = b""
        self._second = 0
        self._stamp = ""  # of that second, without its fraction

    def configure(self, config: AccessLogConfig | None) -> AccessLog | None:
        """Take on what lb.yaml says; gives itself back, or None if no lines are wanted at all."""
        self.at_open = config is not None and LogPoint.OPEN in config.at
        self.at_close = config is not None and LogPoint.CLOSE in config.at
        return self if self.at_open or self.at_close else None

    def write(self, entry: str | Request) -> None:
        """Queue `{"ts": now, fields}`: a request, or fields as they stand in the line."""
        if not self._entries:
            self._reactor.at_batch_end(self._flush)
        self._entries.append(entry)

    def say(self, line: str) -> None:
        """Write a line that is none of the access log's, now."""
        self._flush()
        self._send(line + "\n", 1)

    def _flush(self) -> None:
        entries, self._entries = self._entries, []
        if entries:
            self._send(_worded(entries, f'{{"ts":"{self._now()}",'), len(entries))

    def _send(self, lines: str, count: int) -> None:
        if len(self._rest) > HELD:
            self.dropped += count
        else:
            self._rest += lines.encode()
        self._pass_on()

    def _pass_on(self) -> None:
        try:
            written = os.write(self._fd, self._rest)
        except BlockingIOError:
            written = 0
        except OSError:  # the control plane is gone; so will this worker be, soon
            self._rest = b""
            return
        self._rest = self._rest[written:]
        if self._rest and self.deadline == NEVER:
            self._reactor.timers.arm(self, RETRY)

    def on_timeout(self) -> None:
        """What the pipe had no room for is not left until the next line comes, which may be in an hour."""
        if self._rest:
            self._pass_on()

    def _now(self) -> str:
        """RFC 3339, in UTC, to the millisecond."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int(now % 1 * 1000):03d}Z"


def _worded(entries: list[str | Request], start: str) -> str:
    """The lines: `start` is their beginning. One function, because a call for each line takes 0.2 µs."""
    lines: list[str] = []
    for one in entries:
        if isinstance(one, str):
            lines.append(f"{start}{one}}}\n")
            continue
        (
            label, ip, port, line, status, peer, source, began, answered, ended, bytes_in, bytes_out, long, termination,
        ) = one  # fmt: skip
        logged = '"method":"","target":""' if line is None else line.logged
        end = "--" if termination is NORMAL else termination.value  # an Enum's value costs a call
        duration = f"{ended - began:.3f}"
        if peer is None:
            head, backend, source = "null", "null", ""
        else:
            backend = f'"{peer.address.text}"'
            head = duration if answered == ended else f"{answered - began:.3f}" if answered >= began else "null"
        lines.append(
            f'{start}"event":"request","mode":"http",{label},"client":"{ip}","client_port":{port},'
            f'{logged},"status":{status},"backend":{backend},"source":"{source}","head_s":{head},"duration_s":{duration},'
            f'"bytes_in":{bytes_in},"bytes_out":{bytes_out},"long":{"true" if long else "false"},"end":"{end}"}}\n'
        )
    return "".join(lines)

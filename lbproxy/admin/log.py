"""What lbproxy writes to stdout: one JSON object per line, and never at the price of waiting for the reader.

A thread does the writing. Everything else puts lines into a bounded queue; when the reader of stdout is too slow the
queue fills, and then lines are dropped and counted, because health checks and connections matter more.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from lbproxy.admin.events import RecentEvents

LEVELS = ("debug", "info", "warning", "error")
HELD = 4 << 20  # bytes kept for a slow reader
_FORMATTER = logging.Formatter()
_ACCESS = b'{"ts":"'  # how a worker's access lines begin
_OTHER_NEXT = re.compile(b"\n(?!" + re.escape(_ACCESS) + b"|\\Z)")


class Output:
    """A file descriptor that is written to by a thread of its own. `dropped` counts lines."""

    def __init__(self, fd: int = 1) -> None:
        self.dropped = 0
        self.turn_access: Callable[[bytes], bytes] | None = None  # what access-log lines become; None: as they are
        self._fd = fd
        self._path = _path_of(fd)  # now: it would follow a file that is renamed
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._busy = False  # what was taken from the queue is still being written
        self._ready = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="log writer", daemon=True)

    def reopen(self) -> str:
        """Go on in a new file of the same name, after a rotation. Its name, or "" if it is no file. Raises OSError."""
        if not self._path:
            return ""
        before = os.fstat(self._fd)
        new = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, before.st_mode & 0o777)
        try:
            errors = os.fstat(2)
            if (errors.st_dev, errors.st_ino) == (before.st_dev, before.st_ino):
                os.dup2(new, 2)
            os.dup2(new, self._fd)
        finally:
            os.close(new)
        return self._path

    def start(self) -> None:
        self._thread.start()

    def write(self, lines: bytes) -> None:
        """Queue whole lines."""
        with self._ready:
            if self._size + len(lines) > HELD:
                self.dropped += lines.count(b"\n")
                return
            self._queue.append(lines)
            self._size += len(lines)
            self._ready.notify()

    def flush(self, seconds: float) -> bool:
        """Wait until everything is written, for at most so long; whether it is."""
        with self._ready:
            return self._ready.wait_for(lambda: not (self._queue or self._busy), seconds)

    def close(self, seconds: float = 1.0) -> None:
        """Write what is left, for at most so long."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._ready:
                self._busy = False
                self._ready.notify_all()
                self._ready.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                self._busy = True
                data = b"".join(self._queue)
                self._queue.clear()
                self._size = 0
            try:
                while data:
                    data = data[self._write_some(data) :]
            except OSError:  # nobody reads any more
                self.dropped += data.count(b"\n")

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # somebody made it non-blocking: it is shared with whoever started us
            select.select([], [self._fd], [], 1.0)
            return 0


def _path_of(fd: int) -> str:
    """The name of an open file; "" for a pipe, a terminal, and what is closed."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}") if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    except OSError:
        return ""


class EventLog:
    """The control plane's own events. `level` is the least that is written."""

    def __init__(self, output: Output, level: str = "info") -> None:
        self.recent = RecentEvents()
        self._output = output
        self._least = LEVELS.index(level)
        self._text = False

    def configure(self, level: str, format: str) -> None:
        """Write from this level on, as json or text."""
        self._least = LEVELS.index(level)
        self._text = format == "text"

    def say(self, level: str, event: str, message: str, **fields: object) -> None:
        """At a level that has come from elsewhere."""
        self._write(LEVELS.index(level) if level in LEVELS else len(LEVELS) - 1, event, message, fields)

    def debug(self, event: str, message: str, **fields: object) -> None:
        self._write(0, event, message, fields)

    def info(self, event: str, message: str, **fields: object) -> None:
        self._write(1, event, message, fields)

    def warning(self, event: str, message: str, **fields: object) -> None:
        self._write(2, event, message, fields)

    def error(self, event: str, message: str, **fields: object) -> None:
        self._write(3, event, message, fields)

    def _write(self, level: int, event: str, message: str, fields: dict[str, object]) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.recent.note(stamp, LEVELS[level], event, message)
        if level < self._least:
            return
        if self._text:
            words = f"{message}\n{fields['traceback']}" if fields.get("traceback") else message
            line = f"{stamp} {LEVELS[level].upper():<7} {event}: {words}".replace("\n", " / ")
        else:
            line = json.dumps(
                {"ts": stamp, "level": LEVELS[level], "event": event, "msg": message, **fields}, default=str
            )
        self._output.write(line.encode() + b"\n")


class Records(logging.Handler):
    """The control plane's own log records (a bug in a page, say) as events: stderr may be read by nobody."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        traceback = _FORMATTER.formatException(record.exc_info) if record.exc_info else ""
        self._log.say(record.levelname.lower(), "internal", record.getMessage(), traceback=traceback)


class LinePump:
    """Cuts a worker's stream of access-log lines at line ends, so that the lines of several workers never mix.

    `say` gets what is no access line: its log records, and what the interpreter writes to its stderr.
    """

    def __init__(self, output: Output, say: Callable[[bytes], None]) -> None:
        self._output = output
        self._say = say
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Pass on the whole lines in what was read."""
        if data.endswith(b"\n") and not self._rest:  # as nearly always: nothing is copied
            lines = data
        else:
            end = data.rfind(b"\n") + 1
            if not end:
                self._rest += data
                return
            lines = self._rest + data[:end]
            self._rest = data[end:]
        if not lines.startswith(_ACCESS) or _OTHER_NEXT.search(lines):
            lines = self._sift(lines)
        turn = self._output.turn_access
        if not lines:
            return
        self._output.write(lines if turn is None else turn(lines))

    def _sift(self, lines: bytes) -> bytes:
        """The access lines. What stands between two of them is said in one piece: a traceback, perhaps."""
        access, other = [], []
        for line in lines.splitlines(keepends=True):
            if line.startswith(_ACCESS):
                access.append(line)
            elif line.startswith(b"{"):
                self._say(line)
            else:
                other.append(line)
        if other:
            self._say(b"".join(other))
        return b"".join(access)

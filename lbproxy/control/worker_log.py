"""The pipe that a worker writes its access log into, and whatever else it has to say: it is its stderr, too."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import trio

from lbproxy.admin.log import EventLog, LinePump, Output

LOG_PAUSE = 0.01  # seconds between two reads of a worker's access log
LOG_PIPE = 1 << 20  # bytes that it can write meanwhile; what an unprivileged process may ask for


def line_pump(output: Output, log: EventLog, pid: int) -> LinePump:
    """For one worker's pipe."""
    return LinePump(output, voice(log, pid))


def voice(log: EventLog, pid: int) -> Callable[[bytes], None]:
    """What turns a worker's log records, and what its interpreter has written, into events."""

    def say(text: bytes) -> None:
        try:
            record = json.loads(text)
            level, message, traceback = record["level"], record["msg"], record.get("traceback")
        except (ValueError, TypeError, KeyError):
            traceback = text.decode(errors="replace").rstrip()
            level, message = "error", traceback.rpartition("\n")[2]
        fields = {"traceback": traceback} if traceback else {}
        log.say(level, "worker", f"worker {pid}: {message}", pid=pid, **fields)

    return say


async def pump_log(fd: int, pump: LinePump) -> None:
    """Pass lines on until the other end is closed."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        # A busy worker writes thousands of times a second: to be woken for each costs more than the lines do. And an
        # interpreter writes its traceback line by line, which is to be one event.
        await trio.sleep(LOG_PAUSE)
        if not read_log(fd, pump):
            return


def read_log(fd: int, pump: LinePump) -> bool:
    """Pass on what a worker has written; whether there may be more."""
    try:
        data = os.read(fd, LOG_PIPE)
    except BlockingIOError:
        return False
    pump.feed(data)
    return bool(data)

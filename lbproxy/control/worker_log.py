"""The pipe that a worker writes its access log into."""

from __future__ import annotations

import os

import trio

from lbproxy.admin.log import LinePump

LOG_PAUSE = 0.01  # seconds between two reads of a worker's access log
LOG_PIPE = 1 << 20  # bytes that it can write meanwhile; what an unprivileged process may ask for


async def pump_log(fd: int, pump: LinePump) -> None:
    """Pass lines on until the other end is closed."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        if not read_log(fd, pump):
            return
        # A busy worker writes thousands of times a second: to be woken for each costs more than the lines do.
        await trio.sleep(LOG_PAUSE)


def read_log(fd: int, pump: LinePump) -> bool:
    """Pass on what a worker has written; whether there may be more."""
    try:
        data = os.read(fd, LOG_PIPE)
    except BlockingIOError:
        return False
    pump.feed(data)
    return bool(data)

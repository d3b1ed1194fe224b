"""Pipes for bulk: bytes that go from socket to socket inside the kernel, without a copy into Python (splice(2)).

Below some 16 KiB per event recv() and send() are cheaper, so a pipe is borrowed only for a direction whose reads keep
filling the buffer, and given back with the first short one. An idle connection owns none.
"""

from __future__ import annotations

import fcntl
import os

SIZE = 256 * 1024  # bytes: sixteen such pipes in each direction of busy workers stay below fs.pipe-user-pages-soft
SMALLEST = 64 * 1024  # what a pipe must hold to be worth it: beyond the user's share of memory new ones hold 4 or 8 KiB
KEPT = 16  # unused pipes
MOST = 128  # in all
FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
IN_PIPE = b"\0"  # stands for what is in a pipe, where other bytes would wait
ENOUGH = 16 * 1024  # bytes: what a read must bring for splicing to go on


class Pipe:
    """Its two ends, and how many bytes are in it."""

    __slots__ = ("held", "read_fd", "write_fd")

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.held = 0

    def fill(self, fd: int, most: int = SIZE) -> int:
        """Take a socket's bytes into the empty pipe; 0 is its end. Raises OSError, and BlockingIOError for none."""
        self.held = got = os.splice(fd, self.write_fd, most, flags=FLAGS)
        return got

    def drain(self, fd: int) -> bool:
        """Give them to a socket; False if it does not take all of them now. Raises OSError."""
        try:
            while self.held:
                self.held -= os.splice(self.read_fd, fd, self.held, flags=FLAGS)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


class Pipes:
    """A bounded supply."""

    __slots__ = ("_count", "_unused")

    def __init__(self) -> None:
        self._unused: list[Pipe] = []
        self._count = 0

    def take(self) -> Pipe | None:
        """An empty pipe, or None: then bytes are copied."""
        if self._unused:
            return self._unused.pop()
        return self._make() if self._count < MOST else None

    def give(self, pipe: Pipe) -> None:
        """Take it back. One that still holds bytes is never used again: they are somebody's."""
        if pipe.held or len(self._unused) >= KEPT:
            pipe.close()
            self._count -= 1
        else:
            self._unused.append(pipe)

    def close(self) -> None:
        for pipe in self._unused:
            pipe.close()
        self._unused.clear()

    def _make(self) -> Pipe | None:
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # no descriptors left
            return None
        try:
            fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, SIZE)
        except OSError:  # the user's pipes have used up fs.pipe-user-pages-soft
            if fcntl.fcntl(pipe.write_fd, fcntl.F_GETPIPE_SZ) < SMALLEST:
                pipe.close()
                return None
        self._count += 1
        return pipe

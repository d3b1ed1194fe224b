"""A network without sockets and a clock without time: what happens is decided by one seeded source of chance.

The balancer gets `SimSocket`s, which do what its code asks of a socket, and a `SimPoll` in epoll's place that is
edge-triggered, too. The other end of a connection is a `Remote`, called back when something arrives. Bytes arrive in
pieces and late, in order within one direction, and not at all while the path that they go by is blocked.
"""

from __future__ import annotations

import errno
import heapq
import os
import socket
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from lbproxy.dataplane.pipes import Pipe, Pipes
from lbproxy.dataplane.reactor import ERR, HUP, IN, OUT, RDHUP

POLLS = 20_000  # without time going by: more is a loop that never ends
WINDOWS = (200, 4096, 65536, 1 << 20)  # bytes that may be under way from the balancer to a remote
SILENCE = 10.0  # seconds after which TCP gives up a peer that acknowledges nothing, as tcp.backend is configured


class Violation(AssertionError):  # noqa: N818 - it is what the field calls it
    """An invariant was broken."""


class World:
    """The clock, what is still to happen, and the story so far."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.story: deque[str] = deque(maxlen=60)
        self.faults: list[str] = []
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def clock(self) -> float:
        return self.now

    def after(self, delay: float, function: Callable[..., None], *args: Any) -> float:
        """Call it later; gives back when."""
        self._count += 1
        when = self.now + delay
        heapq.heappush(self._agenda, (when, self._count, function, args))
        return when

    @property
    def next(self) -> float:
        return self._agenda[0][0] if self._agenda else float("inf")

    def run_due(self) -> None:
        """Let happen what is due now."""
        while self._agenda and self._agenda[0][0] <= self.now:
            _, _, function, args = heapq.heappop(self._agenda)
            function(*args)

    def number(self) -> int:
        """One that was not used before."""
        self._count += 1
        return self._count

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now - 1000:9.4f} {text}")

    def tell_fault(self, text: str) -> None:
        self.tell(text)
        self.faults.append(f"{self.now - 1000:9.4f} {text}")

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def latency(self) -> float:
        return self.random.expovariate(1000.0) if self.chance(0.98) else self.random.uniform(0.0, 0.2)


class Path:
    """How a host is reached."""

    def __init__(self) -> None:
        self.blocked = False
        self.sockets: set[SimSocket] = set()

    def unblock(self) -> None:
        """Retransmissions get through."""
        self.blocked = False
        for sock in sorted(self.sockets, key=SimSocket.fileno):
            sock.kick()


class Remote(Protocol):
    """The other end of a connection."""

    def on_data(self, data: bytes) -> None:
        """Bytes have arrived."""

    def on_end(self, reset: bool) -> None:
        """FIN, or RST."""


class Direction:
    """What is under way one way, in order."""

    def __init__(self, world: World, path: Path, deliver: Callable[[bytes | int], None]) -> None:
        self._world = world
        self._path = path
        self._deliver = deliver
        self._queue: deque[bytes | int] = deque()
        self._last = 0.0
        self._stuck = 0

    def put(self, item: bytes | int) -> None:
        """`item`: bytes, or an errno for RST (0: FIN)."""
        when = max(self._last, self._world.now + self._world.latency())
        self._queue.append(item)
        self._last = self._world.after(when - self._world.now, self._arrive)

    def put_bytes(self, data: bytes) -> None:
        random = self._world.random
        while data and random.random() < 0.15:
            cut = random.randint(1, len(data))
            self.put(data[:cut])
            data = data[cut:]
        if data:
            self.put(data)

    def kick(self) -> None:
        stuck, self._stuck = self._stuck, 0
        for _ in range(stuck):
            self._arrive()

    def drop(self) -> None:
        self._queue.clear()
        self._stuck = 0

    def _arrive(self) -> None:
        if not self._queue:
            return
        if self._path.blocked:
            self._stuck += 1
            return
        self._deliver(self._queue.popleft())


class SimSocket:
    """The balancer's end of a connection."""

    family = int(socket.AF_INET)

    def __init__(self, world: World, poll: SimPoll, path: Path) -> None:
        self.remote: Remote | None = None
        self.on_send: Callable[[bytes], None] | None = None  # sees what the balancer sends
        self.connected = False
        self.closed = False
        self._world = world
        self._poll = poll
        self._path = path
        self._fd = world.number()
        self._received = bytearray()
        self._fin = self._shut = self._broken = self._reset_on_close = False
        self._error = 0
        self._corked = b""  # sent with MSG_MORE, and nothing since
        self._under_way = 0
        self._window = world.random.choice(WINDOWS)
        self._out = Direction(world, path, self._at_remote)
        self._in = Direction(world, path, self._at_balancer)
        path.sockets.add(self)
        poll.sockets[self._fd] = self

    # -- what the balancer calls ---------------------------------------------------------------------------------

    def fileno(self) -> int:
        return -1 if self.closed else self._fd

    def setsockopt(self, level: int, option: int, _value: object) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._reset_on_close = True

    def getsockopt(self, _level: int, _option: int) -> int:
        error, self._error = self._error, 0
        return error

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._check_open()
        if self._received:
            data = bytes(self._received[:size])
            if not flags & socket.MSG_PEEK:
                del self._received[:size]
            return data
        if self._error:
            self._fin = True
            raise self._os_error(self.getsockopt(0, 0))
        if self._fin:
            return b""
        raise BlockingIOError

    def recv_into(self, buffer: bytearray) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        self._check_open()
        data = bytes(data)  # a view is of a buffer that others write to
        if self._error:
            raise self._os_error(self.getsockopt(0, 0))
        if self._broken or self._shut:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        taken = min(len(data), self._window - self._under_way)
        if taken <= 0:
            raise BlockingIOError
        if self.on_send is not None:
            self.on_send(data)
        self._under_way += taken
        if flags & socket.MSG_MORE and taken == len(data):
            self._corked += data
            self._world.after(0.2, self._uncork_late)
        else:
            self._uncork()
            self._out.put_bytes(bytes(data[:taken]))
        return taken

    def _uncork(self) -> None:
        corked, self._corked = self._corked, b""
        self._out.put_bytes(corked)

    def _uncork_late(self) -> None:
        if self._corked and not self.closed:
            raise Violation("bytes waited for a FIN that did not follow")

    def shutdown(self, _how: int) -> None:
        self._check_open()
        if not self.connected or self._broken:
            raise OSError(errno.ENOTCONN, "not connected")
        if not self._shut:
            self._shut = True
            self._uncork()
            self._out.put(0)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._poll.forget(self._fd)
        self._in.drop()
        if self._reset_on_close:
            self._out.drop()
        if self._reset_on_close or self._received:
            self._out.put(errno.ECONNRESET)
        elif not self._shut:
            self._uncork()
            self._out.put(0)

    # -- what the other end calls --------------------------------------------------------------------------------

    def establish(self, remote: Remote) -> None:
        self.remote = remote
        self.connected = True
        self._poll.raise_event(self._fd)

    def break_off(self, error: int) -> None:
        """The connection fails, without a word from the other end."""
        if not self.closed and not self._broken:
            self._broken = True
            self._error = error
            self._in.drop()
            self._poll.raise_event(self._fd)

    def transmit(self, data: bytes) -> None:
        """From the remote to the balancer."""
        if not self.closed:
            self._in.put_bytes(data)

    def hang_up(self, *, reset: bool) -> None:
        """The remote closes."""
        self.remote = None
        if not self.closed:
            self._in.put(errno.ECONNRESET if reset else 0)

    def kick(self) -> None:
        self._in.kick()
        self._out.kick()

    @property
    def mask(self) -> int:
        if not (self.connected or self._error or self._broken):
            return 0
        mask = IN if self._received or self._fin or self._broken else 0
        if self._fin or self._broken:
            mask |= RDHUP
        if self._broken or (self._fin and self._shut):
            mask |= HUP
        if self._error:
            mask |= ERR
        return mask | (OUT if self._under_way < self._window or self._broken else 0)

    def _at_remote(self, item: bytes | int) -> None:
        if isinstance(item, bytes):
            was_full = self._under_way >= self._window
            self._under_way -= len(item)
            if self.remote is not None:
                self.remote.on_data(item)
                if was_full:
                    self._poll.raise_event(self._fd)
            elif not self.closed and self.connected:
                self._in.put(errno.ECONNRESET)  # the answer to bytes for somebody who has closed
            return
        remote = self.remote
        if self.closed:
            self._path.sockets.discard(self)
            self.remote = None
        if remote is not None:
            remote.on_end(item != 0)

    def _at_balancer(self, item: bytes | int) -> None:
        if self.closed or self._broken:
            return
        if isinstance(item, bytes):
            self._received += item
        elif item:
            self._broken, self._error = True, item
        else:
            self._fin = True
        self._poll.raise_event(self._fd)

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "used after close")

    @staticmethod
    def _os_error(number: int) -> OSError:
        return OSError(number, os.strerror(number))


class SimPoll:
    """Edge-triggered epoll."""

    def __init__(self) -> None:
        self.sockets: dict[int, SimSocket] = {}  # open ones
        self.calls = 0  # since time went by
        self._watched: set[int] = set()
        self.ready: dict[int, None] = {}

    def register(self, fd: int, _events: int) -> None:
        if fd in self._watched or fd not in self.sockets:
            raise OSError(errno.EEXIST, "registered twice, or not open")
        self._watched.add(fd)
        self.raise_event(fd)

    def unregister(self, fd: int) -> None:
        self._watched.remove(fd)
        self.ready.pop(fd, None)

    def forget(self, fd: int) -> None:
        self.sockets.pop(fd, None)
        self._watched.discard(fd)
        self.ready.pop(fd, None)

    def raise_event(self, fd: int) -> None:
        if fd in self._watched:
            self.ready[fd] = None

    def poll(self, _timeout: float, _most: int) -> list[tuple[int, int]]:
        self.calls += 1
        if self.calls > POLLS:
            raise Violation("the reactor is busy without end")
        if not self.ready:
            return []
        ready, self.ready = self.ready, {}
        return [(fd, mask) for fd in ready if (mask := self.sockets[fd].mask)]

    def close(self) -> None:
        self._watched.clear()


class NoPipes(Pipes):
    """Everything is copied: splice(2) is for sockets that a kernel has."""

    __slots__ = ()

    def take(self) -> Pipe | None:
        return None

"""The data plane's event loop: edge-triggered epoll and plain callbacks, inside one trio task.

trio is the worker's owner (signals, the control channel, shutdown), but a trio operation costs ten times the system
call under it. So the sockets that carry traffic are not trio's: they are registered once, edge-triggered, with a
private epoll whose own fd is what trio waits for. One wake-up then handles every event of the burst with synchronous
callbacks. While there is traffic the task does not even go back to trio: it blocks in its own epoll for up to
LINGER first, because the next event is usually there sooner than that, and only then returns to trio's scheduler.
That is blocking, not spinning, and bounds what trio's other tasks can be late by to LINGER + BUDGET. What they wait for
with others (a message of the control plane) makes the reactor give way at once, and while they work step by step
(`shared`) it does not linger at all.

What callbacks may rely on:
- Events are hints: a callback must make the system call and believe that (an event may be stale or repeated).
- An fd is closed only after the batch of events it was in, so a number is never reused under a stale event.
- `timers.now` and `second` are the time at the start of the batch.

What is sent in the common case goes to `outbox` and leaves when the batch has been handled: with all receiving and
deciding in one row and all sending in another, the interpreter's code stays in the cache, and a peer that sleeps is
woken once for several messages (1 µs per request in http mode, 0.3 in tcp mode). Whoever sends in another way calls
`send_all()` first, and before it looks at any state, because a failure to send changes that: so nothing is overtaken.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable
from socket import SocketType
from typing import Protocol

import trio

from lbproxy.dataplane.pipes import Pipes
from lbproxy.dataplane.timers import TICK, Timers

IN = select.EPOLLIN
OUT = select.EPOLLOUT
ERR = select.EPOLLERR
HUP = select.EPOLLHUP
RDHUP = select.EPOLLRDHUP
PRI = select.EPOLLPRI  # an urgent byte: a read stops short of it, and there may be more behind it
IN_OUT = IN | OUT  # what epoll says of a socket that has bytes to read and nothing else
READABLE = IN | ERR | HUP | RDHUP
STREAM = IN | OUT | RDHUP | PRI | select.EPOLLET

# Seconds in our own epoll before the task goes back to trio's. Longer than the kernel's tick: a wait that may end
# before that has its timer programmed into the hardware each time, which costs up to 0.5 µs of a relayed request.
LINGER = 0.01
SHORT = 0.002  # seconds; instead, when somebody waits for the end of the wait
BUDGET = 0.005  # seconds of callbacks before trio's other tasks get a turn
MAX_EVENTS = 64  # of a batch: what is in the outbox does not wait for more

Handler = Callable[[int], None]

log = logging.getLogger(__name__)


class Sender(Protocol):
    """Whose bytes are in the outbox."""

    def on_unsent(self, rest: bytes) -> None:
        """The socket has not taken all: `rest` is to be kept until it is writable."""

    def on_send_failed(self, error: OSError) -> None:
        """The connection is broken."""


class Reactor:
    """Create it inside a trio run, add sockets, and keep `run()` running in one task."""

    __slots__ = (
        "_after_wait",
        "_again",
        "_at_end",
        "_clock",
        "_closing",
        "_epoll",
        "_hurries",
        "_linger",
        "_stop",
        "_ticking",
        "handlers",
        "internal_errors",
        "outbox",
        "pipes",
        "second",
        "shared",
        "timers",
    )

    def __init__(
        self, epoll: select.epoll | None = None, clock: Callable[[], float] = time.monotonic, linger: float = LINGER
    ) -> None:
        self._epoll = select.epoll() if epoll is None else epoll  # handed in by the simulation, as the clock is
        self._clock = clock
        self._linger = linger
        self._hurries = False  # the next burst does not linger
        self._stop = 0.0  # when the burst under way ends
        self.shared = 0  # how many of trio's tasks do something that takes many steps of theirs
        self.handlers: dict[int, Handler] = {}
        self.timers = Timers(clock(), self._bug)
        self.second = int(self.timers.now)  # whole seconds: nginx's clock for fail_timeout
        self.internal_errors = 0
        self.pipes = Pipes()  # what one worker has of them
        self.outbox: list[tuple[Callable[[bytes], int], bytes, Sender]] = []  # to be sent at the batch's end
        self._closing: list[SocketType] = []
        self._again: list[tuple[Handler, int]] = []
        self._after_wait: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self._ticking = trio.Event()

    def add(self, fd: int, handler: Handler, events: int = STREAM) -> None:
        """Watch an fd. With the default, edge-triggered both ways: never touched again until it is closed."""
        self.handlers[fd] = handler
        self._epoll.register(fd, events)

    def pause(self, fd: int) -> None:
        """Stop watching an fd without closing it."""
        if self.handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self, sock: SocketType) -> None:
        """Forget a socket now and close it after this batch."""
        self.handlers.pop(sock.fileno(), None)
        self._closing.append(sock)

    def give_way(self, _events: int = IN) -> None:
        """End the burst with this batch. A handler, for what one of trio's tasks waits for."""
        self._stop = 0.0
        self._hurries = True  # the next burst may come before that task has had its turn

    def again(self, handler: Handler, events: int = IN) -> None:
        """Call `handler(events)` once more after this batch: it stopped for fairness, and no new edge will come."""
        self._again.append((handler, events))

    def send_all(self) -> None:
        """Send what is in the outbox."""
        if not self.outbox:
            return
        outbox = self.outbox[:]
        self.outbox.clear()
        for send, data, sender in outbox:
            try:
                sent = send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._guarded(sender.on_send_failed, error)
                continue
            if sent != len(data):
                self._guarded(sender.on_unsent, data[sent:])

    def at_batch_end(self, function: Callable[[], None]) -> None:
        """Call `function` once, when the events at hand have been handled."""
        self._at_end.append(function)

    def after_next_wait(self, function: Callable[[], None]) -> None:
        """Call `function` once, when the next wait for events has ended, by events or after SHORT."""
        self._after_wait.append(function)

    def refresh(self) -> None:
        """Set the clock, for who arms timers from outside of a batch, and see that the wheel turns."""
        self.timers.turn(self._clock())
        self.second = int(self.timers.now)
        self._ticking.set()

    def settle(self) -> None:
        """Close what was closed outside of a batch: the next batch may be long in coming."""
        self._end_batch()

    def close_all(self) -> None:
        """Close the epoll. The sockets belong to their connections."""
        self._end_batch()
        self.pipes.close()
        self._epoll.close()

    async def run(self) -> None:
        """Handle events until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            fd = self._epoll.fileno()
            while True:
                await trio.lowlevel.wait_readable(fd)
                while self._burst():
                    await trio.lowlevel.checkpoint()

    def _burst(self) -> bool:
        """Handle events until none came for LINGER (False) or BUDGET is used up (True)."""
        poll = self._epoll.poll
        handlers = self.handlers
        outbox = self.outbox
        monotonic = self._clock
        timers = self.timers
        linger = 0.0 if self._hurries else self._linger
        self._hurries = False
        self._stop = monotonic() + BUDGET
        while True:
            events = poll(0.0 if self._again or self.shared else SHORT if self._after_wait else linger, MAX_EVENTS)
            timers.now = now = monotonic()
            if now >= timers.due:
                timers.turn(now)
                self.second = int(now)
            if self._after_wait:
                functions, self._after_wait = self._after_wait, []
                for function in functions:
                    function()
            if not events and not self._again:
                self._end_batch()  # what a timer has closed is not left open until something happens
                break
            for fd, event in events:
                try:
                    handler = handlers[fd]
                except KeyError:
                    continue
                try:
                    handler(event)
                except Exception:  # the one guard: a bug ends a connection, not the worker
                    self._bug(getattr(handler, "__self__", None))
            if outbox:
                self.send_all()
            if self._again:
                self._run_again()
            if self._closing or self._at_end or outbox:
                self._end_batch()
            if now > self._stop:
                break
        if timers and not self._ticking.is_set():
            self._ticking.set()
        return bool(self._again) or bool(events)

    def _run_again(self) -> None:
        handlers, self._again = self._again, []
        for handler, events in handlers:
            self._guarded(handler, events)

    def _guarded(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception:
            self._bug(getattr(function, "__self__", None))

    def _end_batch(self) -> None:
        self.send_all()
        functions, self._at_end = self._at_end, []
        for function in functions:
            self._guarded(function)
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    def _bug(self, owner: object) -> None:
        """Log and count a bug, and end the connection that it happened on."""
        self.internal_errors += 1
        log.exception("internal error; the connection is closed: %s", type(owner).__name__)
        on_bug = getattr(owner, "on_bug", None)
        if on_bug is not None:
            on_bug()

    async def _tick(self) -> None:
        """Turn the wheel while nothing else does, but only when something is on it."""
        while True:
            while not self.timers:
                self._ticking = trio.Event()
                await self._ticking.wait()
            await trio.sleep(TICK)
            self.timers.turn(self._clock())
            self.second = int(self.timers.now)
            self._end_batch()

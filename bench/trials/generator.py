"""Requests by the clock: they leave at a fixed rate, whether answers come or not.

`python -m bench.trials.generator PORT RATE COUNT CONNECTIONS` prints what it saw as JSON. It is a process of its own,
so that nothing else of the benchmark runs in between.

Each latency is counted from the time at which its request was due, not from when it left: a request that waits for a
free connection or for a busy generator has waited. That leaves no *coordinated omission*, which hides every stall from
a closed loop such as wrk's; h2load --rps sends by the clock too, but counts from when a request left. What the
generator itself adds is in the figures of `direct`.

It sleeps between requests, to the microsecond: one that spins would take the CPU from the backends beside it, for a
whole time slice, and would measure that.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles

from bench.scenarios import SMALL_BODY

PATIENCE = 10.0  # seconds for answers after the last request was due
MOST = 4096  # bytes of an answer: it has some 300
LATE = 0.001  # seconds after which a request has left late
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """Latencies in µs; `wrong` are answers that are missing, not 200 or not of the right bytes."""

    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    late: float  # share of requests that left more than LATE after they were due
    wrong: int


def is_right(answer: bytes) -> bool:
    """Is it whole, 200, and of the bytes that the backends serve?"""
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n" + SMALL_BODY)


def load(clients: list[socket.socket], rate: int, count: int) -> Seen:
    """Send so many requests, and wait for their answers."""
    epoll = select.epoll()
    by_fd = {sock.fileno(): sock for sock in clients}
    free = deque(by_fd)
    due_at = dict.fromkeys(by_fd, 0.0)
    begun: dict[int, bytes] = {}
    for sock in clients:
        sock.setblocking(False)
        epoll.register(sock, select.EPOLLIN)
    latencies: list[float] = []
    clock = time.monotonic
    apart = 1 / rate
    start = clock() + 0.05
    end = start + count * apart + PATIENCE
    sent = late = wrong = 0
    while len(latencies) + wrong < count and (now := clock()) < end:
        while sent < count and free and start + sent * apart <= now:
            fd = free.popleft()
            due_at[fd] = due = start + sent * apart
            late += now - due > LATE
            by_fd[fd].send(REQUEST)
            sent += 1
            now = clock()
        wait = start + sent * apart - clock() if free and sent < count else 0.1
        # epoll's own clock is in milliseconds, select's is not
        if wait > 0 and not select.select((epoll,), (), (), wait)[0]:
            continue
        for fd, _events in epoll.poll(0):
            received = data = by_fd[fd].recv(65536)
            if fd in begun:
                data = begun.pop(fd) + data
            if is_right(data):
                latencies.append(clock() - due_at[fd])
                free.append(fd)
            elif received and len(data) < MOST:
                begun[fd] = data  # not all of it yet
            else:
                wrong += 1
                epoll.unregister(fd)  # what comes of this connection cannot be told apart any more
    epoll.close()
    if len(latencies) < 2:
        return Seen(0, 0, 0, 0, late / count, count - len(latencies))
    cuts = [cut * 1e6 for cut in quantiles(latencies, n=1000)]
    return Seen(cuts[499], cuts[989], cuts[998], max(latencies) * 1e6, late / count, count - len(latencies))


def main() -> None:
    port, rate, count, connections = map(int, sys.argv[1:])
    with suppress(OSError):  # sleeps are rounded up by 50 µs otherwise
        Path("/proc/self/timerslack_ns").write_text("1000")
    clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(connections)]
    for sock in clients:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    gc.disable()
    print(json.dumps(asdict(load(clients, rate, count))))
    for sock in clients:
        sock.close()


if __name__ == "__main__":
    main()

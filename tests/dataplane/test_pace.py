"""How fast thousands of watches leave a backend that is not ready."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lbproxy.core import config as c
from lbproxy.core import messages
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.leaving import PACE
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.timers import TICK
from lbproxy.dataplane.worker import Worker


class ManualClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watch(HttpConnection):
    """One that can leave whenever it is asked to, and remembers when it was."""

    __slots__ = ("left_at",)

    left_at: float

    can_leave = True

    def depends_on(self, peer: Peer) -> bool:
        return self.peer is peer

    def leave(self, peer: Peer, quiet: float) -> bool:
        self.left_at = self.listener.timers.now
        self.peer = None
        return True


@contextmanager
def watches(count: int, workers: int, drain_timeout: float) -> Iterator[list[float]]:
    """When each of so many has left, in seconds, in a worker of several, in order."""
    clock = ManualClock()
    backends = tuple(c.Backend(c.Address(f"127.0.0.{one}:1", f"127.0.0.{one}", 1)) for one in (1, 2))
    config = c.Config(
        listeners=(c.Listener("api", (), c.Mode.HTTP, "p"),),
        pools=(c.Pool("p", backends, drain_timeout=drain_timeout),),
        workers=workers,
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end, _other = socket.socketpair()
    with ours, theirs, end, _other:
        theirs.setblocking(False)
        reactor = Reactor(clock=clock)
        worker = Worker(messages.Configure(config, ((),), None), theirs, reactor)
        listener = worker._listeners[0]
        made: list[Watch] = []
        for _ in range(count):
            watch = Watch.__new__(Watch)
            super(HttpConnection, watch).__init__(listener, end, "", 0)
            watch.peer = listener.pool.peers[0]
            listener.enter(watch)
            made.append(watch)
        worker._take_health(messages.SetHealth("p", 0, Health.NOT_READY, False))
        while any(watch.peer for watch in made):
            clock.now += TICK
            reactor.refresh()
            assert clock.now < 2000
        yield sorted(watch.left_at - 1000 for watch in made)
        reactor.close_all()


@pytest.mark.parametrize(("count", "workers", "seconds"), [(600, 1, 3), (4000, 1, 20), (300, 4, 6)])
def test_watches_leave_at_a_pace(count: int, workers: int, seconds: float) -> None:
    with watches(count, workers, 30.0) as times:
        assert times[-1] == pytest.approx(seconds, abs=0.5)
        for begin in range(int(seconds)):
            in_a_second = sum(begin <= one < begin + 1 for one in times)
            assert in_a_second <= 1.4 * PACE / workers + 5, begin


def test_more_than_the_pace_allows_leave_before_the_drain_timeout() -> None:
    with watches(10_000, 1, 30.0) as times:
        assert 23 < times[-1] <= 24.2
    with watches(1000, 1, 2.0) as times:
        assert times[-1] <= 1.2


def test_without_a_timeout_there_is_no_hurry() -> None:
    with watches(10_000, 1, 0.0) as times:
        assert times[-1] == pytest.approx(50, abs=1)

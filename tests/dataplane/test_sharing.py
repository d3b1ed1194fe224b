"""Two workers that accept on one socket: neither has all the connections."""

from __future__ import annotations

import socket

from lbproxy.core.board import CELL, Board
from lbproxy.dataplane.listener import BURST, MANY, SLACK
from tests.dataplane.harness import Balancer, Lab
from tests.dataplane.test_exchange import OK, answering

AT_ONCE = 64


def share(*workers: Balancer) -> None:
    """Let them see how many connections the others have."""
    cells = memoryview(bytearray(b"\xff" * CELL * len(workers))).cast("i")
    for row, lb in enumerate(workers):
        (listener,) = lb.worker._listeners
        listener.configure(
            listener.config, listener.full_config, listener.access, listener.max_connections, Board(cells, 1, row), 0
        )
        listener._tell()


def connect(lb: Balancer, lab: Lab, count: int) -> None:
    """So many, before any worker gets to look."""
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", lb.port))
        lab.at_end(sock.close)


async def test_those_that_come_at_once_are_not_all_for_the_first(lab: Lab) -> None:
    first = await lab.balance("http", await lab.backend(answering(OK)))
    second = await lab.successor(first)
    share(first, second)
    connect(first, lab, AT_ONCE)
    await first.until(lambda: first.listener.active + second.listener.active == AT_ONCE)
    assert min(first.listener.active, second.listener.active) >= AT_ONCE // 4


async def test_what_another_does_not_take_is_not_left(lab: Lab) -> None:
    """It says that it accepts, and it does not: it is stopped, or busy."""
    first = await lab.balance("http", await lab.backend(answering(OK)))
    second = await lab.successor(first)
    share(first, second)
    (stuck,) = second.worker._listeners
    for sock in stuck._sockets.values():
        stuck.reactor.pause(sock.fileno())
    connect(first, lab, AT_ONCE)
    await first.until(lambda: first.listener.active == AT_ONCE)


async def test_short_ones_are_taken_as_they_come(lab: Lab) -> None:
    """They do not pile up, so there is no pause after every few of them."""
    first = await lab.balance("http", await lab.backend(answering(OK)))
    second = await lab.successor(first)
    share(first, second)
    (listener,) = first.worker._listeners
    assert listener._share() == SLACK + 1
    listener.stats.accepted += MANY  # and they have ended: none of them is among the connections
    assert listener._share() == BURST
    assert listener._share() == SLACK + 1
    listener.stats.accepted += MANY
    first.advance(1.0)
    assert listener._share() == SLACK + 1

"""How long the reactor waits in its own epoll, and when it lets trio's other tasks have their turn."""

from __future__ import annotations

import select
import socket

import pytest
import trio

from lbproxy.dataplane.reactor import IN, LINGER, SHORT, Reactor


class Scripted:
    """An epoll that has this in store, and remembers for how long it was waited for."""

    def __init__(self, *batches: list[tuple[int, int]]) -> None:
        self._batches = list(batches)
        self.waits: list[float] = []

    def poll(self, timeout: float, _most: int) -> list[tuple[int, int]]:
        self.waits.append(timeout)
        return self._batches.pop(0) if self._batches else []

    def register(self, fd: int, events: int) -> None:
        """It knows already."""

    def close(self) -> None:
        """Nothing to close."""


def make(*batches: list[tuple[int, int]]) -> tuple[Reactor, Scripted]:
    epoll = Scripted(*batches)
    return Reactor(epoll, clock=lambda: 100.0), epoll  # type: ignore[arg-type]


async def test_it_lingers_after_the_last_event() -> None:
    reactor, epoll = make([(1, IN)])
    reactor.add(1, lambda _events: None)
    assert not reactor._burst()
    assert epoll.waits == [LINGER, LINGER]


async def test_it_does_not_linger_while_a_task_has_many_steps_to_take() -> None:
    reactor, epoll = make()
    reactor.shared += 1
    assert not reactor._burst()
    reactor.shared -= 1
    assert not reactor._burst()
    assert epoll.waits == [0.0, LINGER]


async def test_who_waits_for_the_end_of_a_wait_does_not_wait_long() -> None:
    reactor, epoll = make()
    ended = []
    reactor.after_next_wait(lambda: ended.append(True))
    reactor._burst()
    assert (ended, epoll.waits) == ([True], [SHORT])


async def test_it_gives_way_after_the_batch_that_asks_for_it() -> None:
    seen: list[int] = []
    reactor, epoll = make([(1, IN), (2, IN)], [(2, IN)])
    reactor.add(1, reactor.give_way)
    reactor.add(2, seen.append)
    assert reactor._burst()  # there may be more: it comes again after the others' turn
    assert (seen, len(epoll.waits)) == ([IN], 1)
    assert not reactor._burst()  # and does not linger, because that may have been before their turn
    assert not reactor._burst()
    assert (seen, epoll.waits) == ([IN, IN], [LINGER, 0.0, 0.0, LINGER])


async def test_a_bug_at_the_batchs_end_does_not_end_the_worker() -> None:
    reactor, _epoll = make([(1, IN)])
    closed, end = socket.socketpair()

    def buggy() -> None:
        raise ZeroDivisionError

    def handler(_events: int) -> None:
        reactor.at_batch_end(buggy)
        reactor.close(closed)

    with end:
        reactor.add(1, handler)
        reactor._burst()
        assert reactor.internal_errors == 1
        assert end.recv(1) == b""  # what else there is to do at the end has been done


@pytest.mark.parametrize("traffic", [False, True])
async def test_a_message_for_a_task_does_not_wait_until_the_linger_is_over(traffic: bool) -> None:
    reactor = Reactor(linger=60.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near, far = socket.socketpair()
    with ours, theirs, near, far:
        channel = trio.socket.from_stdlib_socket(ours)
        near.setblocking(False)

        def pass_on(_events: int) -> None:
            theirs.send(b"message")

        reactor.add(near.fileno(), pass_on)
        reactor.add(channel.fileno(), reactor.give_way, IN | select.EPOLLET)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reactor.run)
                if traffic:
                    far.send(b"x")
                else:
                    theirs.send(b"message")
                assert await channel.recv(99) == b"message"
                nursery.cancel_scope.cancel()
        reactor.close_all()

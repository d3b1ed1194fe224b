"""A drain meets a hand-over: what is neither here nor there at that moment is not lost."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from lbproxy.core import messages
from lbproxy.core.handover import hello
from lbproxy.dataplane.handover import Handover
from tests.dataplane.harness import Balancer, Lab
from tests.dataplane.test_handover import LONG, connect
from tests.dataplane.test_handover_reload import echo, reloaded, renamed, says

RELAYS = 20


async def relays(lab: Lab, old: Balancer) -> list[trio.SocketStream]:
    clients = [await connect(lab, old) for _ in range(RELAYS)]
    for client in clients:
        await says(client, b"x")
    return clients


@asynccontextmanager
async def held_up(old: Balancer, seconds: float = LONG) -> AsyncIterator[socket.socket]:
    """The end of a successor that has said hello and reads nothing; the hand-over is in the middle of a connection."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    socket.send_fds(old.control, [messages.encode(messages.HandOver(seconds))], [ours.fileno()])
    ours.close()
    with theirs:
        theirs.send(hello())
        await old.until(lambda: old.worker._ending._handover is not None and bool(handover(old)._ready))
        assert not any(listener.connections for listener in old.worker._all_listeners())
        yield theirs


def handover(old: Balancer) -> Handover:
    found = old.worker._ending._handover
    assert found is not None
    return found


def drain(balancer: Balancer, seconds: float) -> None:
    balancer.control.send(messages.encode(messages.Drain(seconds)))


async def are_reset(clients: list[trio.SocketStream]) -> int:
    """How many have been cut, and not ended as if that were all."""
    count = 0
    for client in clients:
        with trio.fail_after(10):
            try:
                await client.receive_some(1)
            except trio.BrokenResourceError:
                count += 1
    return count


async def test_a_drain_waits_for_what_is_being_handed_over(lab: Lab) -> None:
    old = await lab.balance("tcp", await lab.backend(echo))
    clients = await relays(lab, old)
    new = await lab.successor(old)
    async with held_up(old) as theirs:
        drain(old, LONG)
        await old.until(lambda: old.worker._ending.draining)
        with trio.move_on_after(0.3):
            await old.ended.wait()
        socket.send_fds(new.control, [messages.encode(messages.TakeOver())], [theirs.fileno()])
    with trio.fail_after(10):
        await old.ended.wait()
    for client in clients:
        await says(client, b"y")
    assert new.listener.active == RELAYS


async def test_and_for_what_is_being_taken_over(lab: Lab) -> None:
    """The connections of the predecessor have come after the drain: they get its time, too."""
    old = await lab.balance("tcp", await lab.backend(echo))
    clients = await relays(lab, old)
    new = await lab.successor(old)
    ours, theirs = socket.socketpair()
    with ours:
        socket.send_fds(new.control, [messages.encode(messages.TakeOver())], [theirs.fileno()])
        theirs.close()
        await new.until(lambda: new.worker._ending._taking_over == 1)
        drain(new, LONG)
        await new.until(lambda: new.worker._ending.draining)
        with trio.move_on_after(0.3):
            await new.ended.wait()
        socket.send_fds(old.control, [messages.encode(messages.HandOver(LONG))], [ours.fileno()])
    with trio.fail_after(10):
        await old.ended.wait()
    for client in clients:
        await says(client, b"y")
    for client in clients:
        await client.aclose()
    with trio.fail_after(10):
        await new.ended.wait()


async def test_but_not_longer_than_it_may(lab: Lab) -> None:
    """Neither for a predecessor that says nothing any more."""
    new = await lab.balance("tcp", await lab.backend(echo))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(new.control, [messages.encode(messages.TakeOver())], [theirs.fileno()])
        await new.until(lambda: new.worker._ending._taking_over == 1)
        drain(new, 0.2)
        with trio.fail_after(10):
            await new.ended.wait()


@pytest.mark.parametrize("what", ["hand-over", "drain"])
async def test_what_has_no_time_left_on_its_way_is_cut(lab: Lab, what: str) -> None:
    """By RST, and counted, as if it had not been on its way."""
    old = await lab.balance("tcp", await lab.backend(echo))
    clients = await relays(lab, old)
    async with held_up(old, 0.5 if what == "hand-over" else LONG):
        if what == "drain":
            drain(old, 0.2)
        with trio.fail_after(10):
            await old.ended.wait()
    left = RELAYS - handover(old).moved
    assert left > 0
    assert old.listener.terminations["KD"] == left
    assert old.backends[0].active == 0
    assert await are_reset(clients) == left


async def test_what_comes_back_finds_a_listener_that_has_been_forgotten(lab: Lab) -> None:
    """A reload has retired it, and another has dropped it, as it had no connections at that moment."""
    old = await lab.balance("tcp", await lab.backend(echo), drain_timeout=600.0)
    clients = await relays(lab, old)
    await reloaded(old, renamed(old.configure.config))
    async with held_up(old):
        await reloaded(old, old.configure.config)
        assert not old.worker._retired
    await old.until(lambda: old.worker._ending.draining)
    (retired,) = old.worker._retired
    assert len(retired.connections) == RELAYS - handover(old).moved
    alive = 0
    for client in clients:
        try:
            await says(client, b"y")
        except (AssertionError, trio.BrokenResourceError):
            continue
        alive += 1
    assert alive == len(retired.connections) > 0

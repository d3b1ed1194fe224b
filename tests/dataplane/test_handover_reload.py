"""Connections move while the configuration changes: what a reload has removed moves as well, with the same rights."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import trio

from lbproxy.core import config as c
from lbproxy.core import messages
from lbproxy.core.config import Timeouts
from tests.dataplane.harness import Balancer, Lab, read_exactly, read_head
from tests.dataplane.test_exchange import OK, request
from tests.dataplane.test_handover import LONG, Slow, answer, channel_to, connect, hand_over, polite
from tests.dataplane.test_watches import HEAD, TARGET, Masters, chunk, event, payload, until_events


async def echo(stream: trio.SocketStream) -> None:
    while got := await stream.receive_some(1000):
        await stream.send_all(got)


async def says(client: trio.SocketStream, word: bytes) -> None:
    """The connection is alive."""
    await client.send_all(word)
    assert await read_exactly(client, len(word)) == word


async def stays_quiet(client: trio.SocketStream, seconds: float = 0.5) -> None:
    """Nothing comes, not even its end."""
    with trio.move_on_after(seconds) as scope:
        await client.receive_some(1)
    assert scope.cancelled_caught


def renamed(config: c.Config, pool: str = "p") -> c.Config:
    """The same backends behind a listener of another name, which is another one."""
    (listener,), (only,) = config.listeners, config.pools
    return replace(config, listeners=(replace(listener, name="other", pool=pool),), pools=(replace(only, name=pool),))


async def reloaded(balancer: Balancer, config: c.Config) -> None:
    """Reconfigure, and wait until it has been taken on."""
    balancer.reconfigure(config)
    await balancer.until(lambda: balancer.worker.stats().generation == balancer.configure.generation)


# -- backends --------------------------------------------------------------------------------------------------------


async def test_connections_to_a_removed_backend_keep_their_time(lab: Lab) -> None:
    gone, other = await lab.backend(echo), await lab.backend(echo)
    old = await lab.balance("tcp", gone, drain_timeout=600.0, close_spread=0.05)
    client = await connect(lab, old)
    await says(client, b"one")
    (pool,) = old.configure.config.pools
    await reloaded(old, replace(old.configure.config, pools=(replace(pool, backends=(c.Backend(other),)),)))
    new, taken = await hand_over(lab, old)
    assert taken.connections == 1
    await stays_quiet(client)
    await says(client, b"two")
    assert new.listener.active == 1


async def test_and_end_when_it_is_over(lab: Lab) -> None:
    gone, other = await lab.backend(echo), await lab.backend(echo)
    old = await lab.balance("tcp", gone, drain_timeout=0.5, close_spread=0.0)
    client = await connect(lab, old)
    await says(client, b"one")
    (pool,) = old.configure.config.pools
    await reloaded(old, replace(old.configure.config, pools=(replace(pool, backends=(c.Backend(other),)),)))
    new, _ = await hand_over(lab, old)
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
        await client.receive_some(1)
    assert new.listener.terminations["dD"] == 1


# -- listeners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["p", "q"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_relay_of_a_listener_that_is_in_lb_yaml_no_more(lab: Lab, when: str, pool: str) -> None:
    """It lives until it ends, whichever process it lives in, and whether its pool is still there or not."""
    old = await lab.balance("tcp", await lab.backend(echo), drain_timeout=600.0, close_spread=0.0)
    client = await connect(lab, old)
    await says(client, b"one")
    config = renamed(old.configure.config, pool)
    if when == "before":
        await reloaded(old, config)
        new, taken = await hand_over(lab, old)
    else:
        new = await lab.successor(old)
        await reloaded(new, config)
        taken = await hand_over_to(old, new)
    assert taken.connections == 1
    await says(client, b"two")
    (retired,) = new.worker._retired
    assert [len(one.connections) for one in (retired, *new.worker._listeners)] == [1, 0]
    await stays_quiet(client)
    await client.aclose()
    await new.until(lambda: not retired.connections)
    assert (await new.log_line())["end"] == "--"


async def hand_over_to(old: Balancer, new: Balancer) -> messages.TakenOver:
    """To a worker that runs already."""
    async with channel_to(old, LONG) as theirs:
        socket.send_fds(new.control, [messages.encode(messages.TakeOver())], [theirs.fileno()])
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(new.control)
        taken = answer(new.control)
        await old.ended.wait()
    assert isinstance(taken, messages.TakenOver)
    return taken


async def test_its_timeouts_move_with_it(lab: Lab) -> None:
    old = await lab.balance("tcp", await lab.backend(echo), timeouts=Timeouts(idle=1.0), drain_timeout=600.0)
    client = await connect(lab, old)
    await says(client, b"one")
    config = renamed(old.configure.config)
    await reloaded(old, replace(config, listeners=(replace(config.listeners[0], timeouts=Timeouts()),)))
    await hand_over(lab, old)
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
        await client.receive_some(1)


async def test_a_watch_of_a_listener_that_is_in_lb_yaml_no_more(lab: Lab) -> None:
    """It is not ended by the move, and its connection takes no other request afterwards, as before."""
    more = trio.Event()

    async def send(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + chunk(event(5)))
        await more.wait()
        await stream.send_all(chunk(event(6)))
        await trio.sleep_forever()

    old = await Masters(send).start(lab, drain_timeout=600.0)
    client = await connect(lab, old)
    await client.send_all(request(TARGET))
    await read_head(client)
    body = await until_events(client, 1)
    await reloaded(old, renamed(old.configure.config))
    new, taken = await hand_over(lab, old)
    assert taken.connections == 1
    more.set()
    body += await until_events(client, 1)
    assert payload(body) == event(5) + event(6)
    (retired,) = new.worker._retired
    (connection,) = retired.connections
    assert connection._close  # type: ignore[attr-defined]


async def test_an_idle_connection_whose_listener_goes_meanwhile_is_let_go(lab: Lab) -> None:
    old = await lab.balance("http", await lab.backend(polite))
    client = await connect(lab, old)
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK
    new = await lab.successor(old)
    await reloaded(new, renamed(old.configure.config))
    await hand_over_to(old, new)
    with trio.fail_after(10):
        assert await client.receive_some(1) == b""


# -- leaving twice ---------------------------------------------------------------------------------------------------


async def test_a_second_order_to_leave_changes_nothing(lab: Lab) -> None:
    """The first conversation goes on, and has all that could not move until then."""
    slow = Slow()
    old = await lab.balance("http", await lab.backend(slow.serve))
    client = await connect(lab, old)
    await client.send_all(request())
    await slow.asked.wait()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def move() -> None:
            _, taken = await hand_over(lab, old)
            assert taken.connections == 1

        await old.until(lambda: not old.worker._listeners[0].addresses)
        async with channel_to(old, 0.0) as second:
            second.setblocking(False)
            await trio.lowlevel.wait_readable(second)
            assert second.recv(1) == b""
        slow.go.set()
        assert await read_exactly(client, len(OK)) == OK
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK


async def test_who_leaves_accepts_nothing_after_a_reload(lab: Lab) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    old = await lab.balance("http", await lab.backend(silent))
    client = await connect(lab, old)
    await client.send_all(request())
    await old.until(lambda: old.backends[0].active == 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand_over, lab, old)
        await old.until(lambda: not old.worker._listeners[0].addresses)
        config = old.configure.config
        (listener,) = config.listeners
        await reloaded(old, replace(config, listeners=(listener, replace(listener, name="more"))))
        assert [one.addresses for one in old.worker._listeners] == [[], []]
        client.socket.close()


async def test_what_comes_in_while_it_leaves_goes_out_again(lab: Lab) -> None:
    """A worker that takes connections over from another one becomes one too many itself."""
    slow = Slow()
    first = await lab.balance("http", await lab.backend(slow.serve))
    client = await connect(lab, first)
    await client.send_all(request())
    await slow.asked.wait()
    second, third = await lab.successor(first), await lab.successor(first)
    async with channel_to(first) as theirs:
        socket.send_fds(second.control, [messages.encode(messages.TakeOver())], [theirs.fileno()])
    await first.until(lambda: not first.worker._listeners[0].addresses)
    async with channel_to(second) as theirs:
        socket.send_fds(third.control, [messages.encode(messages.TakeOver())], [theirs.fileno()])
    await second.until(lambda: not second.worker._listeners[0].addresses)
    slow.go.set()
    assert await read_exactly(client, len(OK)) == OK
    with trio.fail_after(10):
        await first.ended.wait()
        await second.ended.wait()
    await client.send_all(request())
    assert await read_exactly(client, len(OK)) == OK
    assert third.listener.active == 1

"""Streams that have piled up are moved to where there are too few, and their clients see nothing of it."""

from __future__ import annotations

import re
from dataclasses import replace

import trio

from lbproxy.core.config import Http, Mode, Rebalance
from lbproxy.core.health import Health
from lbproxy.dataplane.listener import Connection
from lbproxy.dataplane.rebalancing import REST, Balance
from lbproxy.dataplane.worker import Worker
from tests.dataplane.harness import Balancer, Lab, read_head
from tests.dataplane.test_dead import found, silent
from tests.dataplane.test_exchange import next_head, request
from tests.dataplane.test_handover_reload import reloaded
from tests.dataplane.test_watches import HEAD, chunk, event, payload, until_events

WATCHES = 12


async def master(stream: trio.SocketStream) -> None:
    """Sends the next event after the version asked for, and waits."""
    head = await next_head(stream)
    version = int(re.search(r"resourceVersion=(\d+)", head.decode())[1])  # type: ignore[index]
    await stream.send_all(HEAD + chunk(event(version + 1)))
    await trio.sleep_forever()


def streams(lb: Balancer) -> list[int]:
    return [backend.long_streams for backend in lb.backends]


async def test_watches_become_even_and_nobody_sees_it(lab: Lab) -> None:
    lb = await lab.balance(
        "http", *[await lab.backend(master) for _ in range(3)], slow_start=0.0, rebalance=Rebalance.AUTO
    )
    found(lb, 2, Health.DOWN)
    clients = [await lb.connect() for _ in range(WATCHES)]
    for client in clients:
        await client.send_all(request("/api/v1/configmaps?resourceVersion=4&watch=true"))
        await read_head(client)
        assert payload(await until_events(client, 1)) == event(5)
    assert streams(lb) == [6, 6, 0]
    found(lb, 2, Health.UP)
    await lb.until(lambda: streams(lb) == [4, 4, 4])
    assert lb.listener.watches_rebalanced == 4
    await lb.until(lambda: lb.listener.watches_resumed == 4)
    moved = 0
    for client in clients:  # in the same response; those that moved have had the next event
        with trio.move_on_after(0.05):
            assert payload(await until_events(client, 1)) == event(6)
            moved += 1
    assert moved == 4
    for client in clients:
        await client.aclose()


async def test_the_share_of_one_that_starts_slowly_grows_without_requests(lab: Lab) -> None:
    """Watches that nobody joins: the last request found the backend at a third of its share."""
    lb = await lab.balance(
        "http", *[await lab.backend(master) for _ in range(3)], slow_start=2.0, rebalance=Rebalance.AUTO
    )
    found(lb, 2, Health.DOWN)
    clients = [await lb.connect() for _ in range(WATCHES)]
    for client in clients[:-1]:
        await client.send_all(request("/api/v1/configmaps?resourceVersion=4&watch=true"))
        await until_events(client, 1)
    found(lb, 2, Health.UP)
    await clients[-1].send_all(request("/api/v1/configmaps?resourceVersion=4&watch=true"))
    await until_events(clients[-1], 1)
    await lb.until(lambda: streams(lb) == [4, 4, 4])
    for client in clients:
        await client.aclose()


async def test_no_stream_is_moved_twice_in_a_short_time(lab: Lab) -> None:
    lb = await lab.balance(
        "http", *[await lab.backend(master) for _ in range(2)], slow_start=0.0, rebalance=Rebalance.OFF
    )
    found(lb, 1, Health.DOWN)
    clients = [await lb.connect() for _ in range(10)]
    for client in clients:
        await client.send_all(request("/api/v1/configmaps?resourceVersion=4&watch=true"))
        await until_events(client, 1)
    found(lb, 1, Health.UP)
    worker = lb.worker
    balance = Balance(worker._pools["p"], worker._listeners, Mode.HTTP, worker._reactor)
    for _ in range(10):
        balance.look()
    await lb.until(lambda: streams(lb) == [5, 5])
    # Now the other one is to be relieved: those that have just come to it stay.
    for index in (0, 1):
        worker._pools["p"].peers[index].worth = 1.0 - index
    for _ in range(10):
        balance.look()
    await lb.until(lambda: worker._reactor.timers.now > 0)
    assert streams(lb) == [5, 5]
    # A minute later they may: all masters restart within that, and their load is to be even again soon after.
    lb.advance(REST[Mode.HTTP] + 1.0)

    def relieved() -> bool:
        balance.look()
        return streams(lb) == [10, 0]

    await lb.until(relieved)
    for client in clients:
        await client.aclose()


async def test_a_reload_does_not_forget_who_was_moved(lab: Lab) -> None:
    lb = await lab.balance("http", *[await lab.backend(master) for _ in range(2)], slow_start=0.0)
    found(lb, 1, Health.DOWN)
    clients = [await lb.connect() for _ in range(10)]
    for client in clients:
        await client.send_all(request("/api/v1/configmaps?resourceVersion=4&watch=true"))
        await until_events(client, 1)
    found(lb, 1, Health.UP)
    worker = lb.worker
    for _ in range(10):
        worker._balances[0].look()
    await lb.until(lambda: streams(lb) == [5, 5])
    await reloaded(lb, replace(lb.configure.config, http=Http(recovery_rate=7)))
    for index in (0, 1):
        worker._pools["p"].peers[index].worth = 1.0 - index
    for _ in range(10):
        worker._balances[0].look()
    await lb.until(lambda: lb.listener.watches_resumed == 5)
    assert streams(lb) == [5, 5]
    for client in clients:
        await client.aclose()


async def test_the_quiet_go_first_and_of_these_the_oldest(lab: Lab) -> None:
    """The two oldest bring something again and again."""
    speak: list[trio.MemorySendChannel[bytes]] = []

    async def speaking(stream: trio.SocketStream) -> None:
        await next_head(stream)
        send, receive = trio.open_memory_channel[bytes](10)
        speak.append(send)
        await stream.send_all(HEAD + chunk(event(5)))
        async for data in receive:
            await stream.send_all(data)

    lb = await lab.balance(
        "http", *[await lab.backend(speaking) for _ in range(2)], slow_start=0.0, rebalance=Rebalance.OFF
    )
    found(lb, 1, Health.DOWN)
    clients = [await lb.connect() for _ in range(6)]
    for client in clients:
        await client.send_all(request("/api/v1/configmaps?resourceVersion=4&watch=true"))
        await until_events(client, 1)
        lb.advance(1.0)
    found(lb, 1, Health.UP)
    worker = lb.worker
    (listener,) = worker._listeners
    by_age = sorted(listener.connections, key=lambda one: one.began)
    balance = Balance(worker._pools["p"], worker._listeners, Mode.HTTP, worker._reactor)
    moved: list[int] = []
    for second in range(6):
        for client, channel in zip(clients[:2], speak[:2], strict=True):
            await channel.send(chunk(event(6 + second)))
            await until_events(client, 1)
        lb.advance(1.0)
        balance.look()
        moved += [index for index, one in enumerate(by_age) if index not in moved and not at(one, worker, 0)]
    assert moved == [2, 3, 4]
    for client in clients:
        await client.aclose()


def at(connection: Connection, worker: Worker, backend: int) -> bool:
    return connection.depends_on(worker._pools["p"].peers[backend])


async def test_tcp_connections_are_left_alone_unless_asked_for(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(silent), await lab.backend(silent))
    worker = lb.worker
    pool = worker._pools["p"]
    assert [Balance(pool, worker._listeners, mode, worker._reactor).wanted for mode in Mode] == [False, False]


async def test_quiet_tcp_connections_are_closed_slowly_where_it_is_asked_for(lab: Lab) -> None:
    lb = await lab.balance(
        "tcp", await lab.backend(silent), await lab.backend(silent), slow_start=0.0, rebalance=Rebalance.OFF
    )
    worker = lb.worker
    found(lb, 1, Health.DOWN)
    clients = [await lb.connect() for _ in range(10)]
    await lb.until(lambda: lb.backends[0].active == 10)
    found(lb, 1, Health.UP)
    balance = Balance(worker._pools["p"], worker._listeners, Mode.TCP, worker._reactor)
    second = 0
    while lb.backends[0].active == 10 and second < 1200:
        second += 1
        worker._reactor.timers.now += 1.0
        balance.look()
    worker._reactor.settle()
    # One in a hundred a minute, so the first after ten minutes; then nobody of the same address for five more.
    assert 595 <= second <= 605
    for _ in range(200):
        worker._reactor.timers.now += 1.0
        balance.look()
    assert lb.backends[0].active == 9
    assert lb.listener.terminations["MD"] == 1
    for client in clients:
        await client.aclose()

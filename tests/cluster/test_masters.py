"""The main job: everybody goes on working through lbproxy, whatever happens to one master, or to a worker.

Under way in each test, through both doors: a loop of kubectl calls, a watcher, a rollout that a reflector follows;
and through the tcp door two controller-managers and two schedulers that elect their leaders. What is promised:

- No new connection and no new request fails, from the instant of the kill on: every kubectl call exits with 0.
- What was acknowledged is there, once. The watchers have seen every change, once and in order.
- The leaders stay the leaders, and nobody of the four ends.

What is not: a request that the dying master is working on dies with it, as behind any balancer, unless it may be
repeated; and a watch ends with its master, to be opened again. So a kill -9 falls between the calls of the loops;
watchers, reflectors and managers are caught in the middle. A SIGTERM falls where it falls.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.cluster.balancer import Balancer
from tests.cluster.control_plane import MASTERS, ControlPlane
from tests.cluster.kubectl import DOORS, Kubectl
from tests.cluster.leaders import Leaders, Rollout
from tests.cluster.work import Watcher, Work, progress, standing_still

pytestmark = pytest.mark.cluster

in_thread = trio.to_thread.run_sync


@pytest.fixture(scope="module")
def leaders(cluster: ControlPlane, balancer: Balancer) -> Iterator[Leaders]:
    """The managers, with their leaders elected."""
    cluster.start_managers()
    found = Leaders(Kubectl.through("tcp", cluster))
    found.wait_elected()
    yield found
    cluster.stop_managers()


@asynccontextmanager
async def everybody_at_work(cluster: ControlPlane, leaders: Leaders, name: str) -> AsyncIterator[list[Work]]:
    """Keeps everybody busy for as long as the block lasts, and then asks what came of it."""
    terms = leaders.terms()
    clients = [Kubectl.through(door, cluster, namespace=f"{name}-{door}") for door in DOORS]
    for client in clients:
        client("create", "namespace", client.namespace)
    works = [Work(client) for client in clients]
    watchers = [Watcher.of(client) for client in clients]
    rollouts = [Rollout(client) for client in clients]
    for rollout in rollouts:
        rollout.begin()
    async with trio.open_nursery() as nursery:
        for run in [one.run for one in works] + [one.run for one in watchers] + [one.run for one in rollouts]:
            nursery.start_soon(run)
        await progress(works, 4)
        yield works
        for rollout in rollouts:
            await rollout.finish()
        async with standing_still(works):
            for work, watcher in zip(works, watchers, strict=True):
                await watcher.wait_seen(len(work.journal))
            nursery.cancel_scope.cancel()
    for work, watcher in zip(works, watchers, strict=True):
        work.check()
        assert watcher.seen == work.journal
        # Through the http door a watch outlives its master, and nothing else; through the tcp door it ends with it.
        outlives = name == "upgrade" or (name != "worker" and work.kubectl.namespace == f"{name}-http")
        assert (watcher.streams == 1) is outlives, f"{watcher.streams} watches"
        print(f"{work.kubectl.namespace}: {work.calls} calls, {len(watcher.seen)} events in {watcher.streams} watches")
    assert leaders.terms() == terms, "a lease was lost"
    assert cluster.ended() == [], "somebody gave up"


async def test_each_master_is_killed_and_comes_back(
    cluster: ControlPlane, balancer: Balancer, leaders: Leaders
) -> None:
    """All three in turn, so that every watch and every leader has lost its master once."""
    async with everybody_at_work(cluster, leaders, "killed") as works:
        for number in range(len(MASTERS)):
            leases = leaders.leases()
            async with standing_still(works):
                cluster.kill_master(number)
            took = await in_thread(balancer.wait_health, number, "down", 5)
            print(f"master {number} killed: out of both pools after {took:.2f} s")
            await progress(works, 6)
            await in_thread(leaders.wait_renewed, leases)
            totals = balancer.totals(number)
            cluster.start_master(number)
            await in_thread(balancer.wait_health, number, "up", 60)
            await in_thread(balancer.wait_used, number, totals)


async def test_a_rolling_restart(cluster: ControlPlane, balancer: Balancer, leaders: Leaders) -> None:
    """SIGTERM while calls are under way: the master says that it is not ready, and is left in peace."""
    async with everybody_at_work(cluster, leaders, "rolling") as works:
        for number in range(len(MASTERS)):
            cluster.signal_master(number, signal.SIGTERM)
            await in_thread(balancer.wait_health, number, "not_ready", 5)
            await in_thread(cluster.wait_stopped, number)
            totals = balancer.totals(number)
            cluster.start_master(number)
            await in_thread(balancer.wait_health, number, "up", 60)
            await in_thread(balancer.wait_used, number, totals)
        await progress(works, 4)


async def test_a_worker_is_killed(cluster: ControlPlane, balancer: Balancer, leaders: Leaders) -> None:
    """lbproxy's own accident: all connections die with the worker, and all who open new ones are served."""
    async with everybody_at_work(cluster, leaders, "worker") as works:
        leases = leaders.leases()
        (worker,) = balancer.workers()
        async with standing_still(works):
            os.kill(worker, signal.SIGKILL)
        await progress(works, 6)
        await in_thread(leaders.wait_renewed, leases)
        assert worker not in balancer.workers()


async def test_upgrades(cluster: ControlPlane, balancer: Balancer, leaders: Leaders) -> None:
    """Three, with everybody at work: no call fails, and each watch, over HTTP/2 in tcp mode too, is still its first."""
    async with everybody_at_work(cluster, leaders, "upgrade") as works:
        for _ in range(3):
            leases = leaders.leases()
            await in_thread(balancer.upgrade)
            await progress(works, 4)
            await in_thread(leaders.wait_renewed, leases)

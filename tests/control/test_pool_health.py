"""A pool whose backends are all in trouble: in virtual time, with checks that follow a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from lbproxy.admin.log import EventLog
from lbproxy.control.checker import Checker
from lbproxy.control.pool_health import PoolHealth
from lbproxy.core import messages
from lbproxy.core.config import Address, AllDown, Backend, BackendState, CheckType, HealthCheck, Pool
from lbproxy.core.health import CheckResult, Health, Verdict

UP = CheckResult(Verdict.UP, "GET /readyz answered 200", 200)
ETCD = CheckResult(Verdict.NOT_READY, "GET /readyz answered 500: [-]etcd failed", 500, ("etcd", "etcd-readiness"))
STARTING = CheckResult(Verdict.NOT_READY, "GET /readyz answered 500", 500, ("poststarthook/x",))
DOWN = CheckResult(Verdict.DOWN, "connection refused")


class Lines(EventLog):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def _note(self, event: str, message: str, **fields: Any) -> None:
        self.events.append((event, message))

    info = warning = error = debug = _note


class World:
    """A pool of backends whose checks say what the test sets."""

    def __init__(self, count: int, **options: Any) -> None:
        self.says = [UP] * count
        backends = tuple(Backend(Address(f"10.0.0.{n}:80", f"10.0.0.{n}", 80)) for n in range(count))
        check = HealthCheck(type=CheckType.HTTP, jitter=0.0)
        self.pool = replace(Pool("p", backends, health_check=check), **options)
        self.told: list[messages.ToWorker] = []
        self.log = Lines()
        self.health = PoolHealth(self.pool, self.log, self.told.append)
        for index, checker in enumerate(self.health.checkers):
            checker._probe = self._probe(index)
            checker._random = lambda: 0.0
        self.starts: list[float] = []

    def _probe(self, index: int) -> Callable[[trio.Event], Any]:
        async def probe(alive: trio.Event) -> CheckResult:
            if index == 0:
                self.starts.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            return self.says[index]

        return probe

    async def run(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for checker in self.health.checkers:
                    nursery.start_soon(checker.run)

    @property
    def fail_opens(self) -> list[bool]:
        return [message.fail_open for message in self.told if isinstance(message, messages.SetFailOpen)]

    def said(self, event: str) -> list[str]:
        return [message for name, message in self.log.events if name == event]


async def test_nobody_ready(autojump_clock: trio.testing.MockClock) -> None:
    world = World(3)
    await world.run(1)
    world.says = [ETCD, STARTING, DOWN]
    await world.run(6)
    assert world.fail_opens == [True]
    (line,) = world.said("fail_open")
    assert "10.0.0.0:80, 10.0.0.1:80" in line
    assert "10.0.0.2" not in line
    assert messages.SetFailOpen("p", True) in world.health.known()
    world.says[1] = UP
    await world.run(3)
    assert world.fail_opens == [True, False]
    assert "ready backend again" in world.said("fail_open")[1]
    assert world.health.fail_opens == 1


async def test_the_last_one_alive_dies(autojump_clock: trio.testing.MockClock) -> None:
    world = World(2)
    world.says = [ETCD, DOWN]
    await world.run(3)
    world.says = [DOWN, DOWN]
    await world.run(6)
    assert world.fail_opens == [True, False]
    assert "no backend that is alive" in world.said("fail_open")[1]


@pytest.mark.parametrize(("says", "expected"), [((ETCD, ETCD), [True]), ((ETCD, STARTING), []), ((ETCD, DOWN), [])])
async def test_a_pool_that_rejects_is_not_emptied_by_etcd_alone(
    autojump_clock: trio.testing.MockClock, says: tuple[CheckResult, ...], expected: list[bool]
) -> None:
    world = World(2, all_down=AllDown.REJECT)
    await world.run(1)
    world.says = list(says)
    await world.run(6)
    assert world.fail_opens == expected


async def test_one_in_maintenance_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    world = World(2)
    backends = (world.pool.backends[0], replace(world.pool.backends[1], state=BackendState.MAINT))
    world = World(2, backends=backends)
    world.says = [ETCD, UP]
    await world.run(6)
    assert world.fail_opens == [True]


async def test_when_nobody_is_up_checks_hurry_and_one_success_is_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(2)
    await world.run(1)
    world.says = [DOWN, DOWN]
    await world.run(6)
    assert [checker.health for checker in world.health.checkers] == [Health.DOWN] * 2
    world.starts.clear()
    world.says = [UP, DOWN]
    await world.run(0.7)
    assert [checker.health for checker in world.health.checkers] == [Health.UP, Health.DOWN]
    world.says = [UP, UP]
    await world.run(0.9)
    assert [checker.health for checker in world.health.checkers] == [Health.UP, Health.DOWN]  # `rise` holds again
    await world.run(3)
    assert [checker.health for checker in world.health.checkers] == [Health.UP, Health.UP]


async def test_what_was_counted_outlives_a_reload_that_changes_the_check(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(1)
    (checker,) = world.health.checkers
    checker.clock = trio.current_time
    world.says = [DOWN]
    await world.run(10.0)
    (before,) = world.health.views()
    assert before.checks.made > 3
    assert before.checks.changes == 1
    assert before.downtime == 10.0, "the first check has said so, at once"
    check = replace(world.pool.health_check, path="/livez")
    world.health.configure(replace(world.pool, health_check=check))
    (changed,) = world.health.checkers
    assert changed is not checker
    assert changed.counts is before.checks
    changed.clock = trio.current_time
    await trio.sleep(5.0)
    (after,) = world.health.views()
    assert after.downtime == pytest.approx(before.downtime + 5.0), "it is still down"


async def test_a_successor_counts_on_for_one_that_was_down(autojump_clock: trio.testing.MockClock) -> None:
    world = World(1)
    (checker,) = world.health.checkers
    checker.clock = trio.current_time
    world.health.restore([(checker.backend.address.text, "down", "because", 1.0)])
    await trio.sleep(3.0)
    (view,) = world.health.views()
    assert view.downtime == 3.0


async def test_a_backend_that_is_checked_no_more_is_not_down_for_ever(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(1)
    (checker,) = world.health.checkers
    checker.clock = trio.current_time
    world.says = [DOWN]
    await world.run(10.0)
    assert list(world.health.known()) == [messages.SetHealth("p", 0, Health.DOWN, False)]
    since = checker.since
    defaults = Checker.__init__.__kwdefaults__ or {}
    monkeypatch.setattr(Checker.__init__, "__kwdefaults__", defaults | {"clock": checker.clock})
    world.health.configure(replace(world.pool, health_check=HealthCheck(type=CheckType.NONE)))
    await trio.sleep(5.0)
    (view,) = world.health.views()
    assert (view.health, view.reason) == (Health.UNKNOWN, "health_check.type is none")
    assert view.since > since
    assert view.downtime == 10.0, "it is over"
    assert list(world.health.known()) == [messages.SetHealth("p", 0, Health.UNKNOWN, False)], "workers keep what is old"

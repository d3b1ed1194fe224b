"""The words for what a reload changes, and what it makes of the control plane's parts."""

from __future__ import annotations

import pytest
import trio

from lbproxy.admin import totals
from lbproxy.control.configfile import loads
from lbproxy.control.pool_health import PoolHealth
from lbproxy.control.reload import differences
from lbproxy.core import messages
from lbproxy.core.config import Address, Backend, CheckType, HealthCheck, Pool
from lbproxy.core.health import CheckResult, Health, Verdict
from tests.control.test_pool_health import Lines

BASE = """
workers: 1
listeners:
  - {name: a, bind: "127.0.0.1:1001", mode: tcp, pool: p}
  - {name: b, bind: "127.0.0.1:1002", mode: http, pool: p}
pools:
  p: {backends: ["10.0.0.1:80", "10.0.0.2:80"]}
"""


@pytest.mark.parametrize(
    ("old", "new", "phrases"),
    [
        ("", "", []),
        (
            '["10.0.0.1:80", ',
            '["10.0.0.3:80", ',
            ["backend 10.0.0.3:80 added to pool p", "backend 10.0.0.1:80 removed from pool p"],
        ),
        ('"10.0.0.2:80"', '{address: "10.0.0.2:80", weight: 3}', ["backend 10.0.0.2:80 of pool p changed"]),
        ("name: b", "name: c", ["listener c added", "listener b removed"]),
        (
            "mode: tcp",
            "mode: http",
            ["listener a is another one: mode or pool changed", "pool p: health_check changed"],
        ),
        ('"127.0.0.1:1002"', '"127.0.0.1:1003"', ["listener b: bind changed"]),
        ("p: {", "p: {drain_timeout: 5s, slow_start: 0s, ", ["pool p: drain_timeout, slow_start changed"]),
        ("pools:", "timeouts: {connect: 3s}\npools:", ["listener a: timeouts changed", "listener b: timeouts changed"]),
        ("workers: 1", "workers: 2\nlog: {level: debug}", ["workers changed", "log changed"]),
        (
            "http, pool: p}\npools:",
            "http, pool: q}\npools:\n  q: {backends: ['10.0.0.9:80']}",
            ["listener b is another one: mode or pool changed", "pool q added"],
        ),
    ],
)
def test_what_has_changed_in_words(old: str, new: str, phrases: list[str]) -> None:
    before, after = loads(BASE).config, loads(BASE.replace(old, new, 1)).config
    assert list(differences(before, after)) == phrases


def test_counters_stay_with_what_they_count() -> None:
    old = loads(BASE).config
    new = loads(
        BASE.replace('"10.0.0.1:80", "10.0.0.2:80"', '"10.0.0.3:80", "10.0.0.1:80"').replace("name: a", "name: c")
    ).config
    stats = totals.empty(old)
    stats.listeners[0].accepted, stats.listeners[1].accepted = 5, 6
    stats.pools["p"][0].total, stats.pools["p"][1].total = 7, 8
    stats.no_backend = {"p": 2, "gone": 1}
    shaped = totals.reshape(stats, old, new)
    assert [one.accepted for one in shaped.listeners] == [0, 6]
    assert [one.total for one in shaped.pools["p"]] == [0, 7]
    assert shaped.no_backend == {"p": 2}
    totals.add(totals.empty(new), shaped)


def _pool(check: HealthCheck, *numbers: int) -> Pool:
    backends = tuple(Backend(Address(f"10.0.0.{n}:80", f"10.0.0.{n}", 80)) for n in numbers)
    return Pool("p", backends, health_check=check)


async def test_health_goes_on_where_it_was(autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def probe(self: object, alive: trio.Event) -> CheckResult:
        host = self._address.host  # type: ignore[attr-defined]
        asked.append(host)
        await trio.sleep(0.01)
        return CheckResult(Verdict.DOWN if host == "10.0.0.2" else Verdict.UP, "scripted")

    monkeypatch.setattr("lbproxy.control.probe.Probe.run", probe)
    check = HealthCheck(type=CheckType.HTTP, jitter=0.0)
    told: list[messages.ToWorker] = []
    health = PoolHealth(_pool(check, 1, 2), Lines(), told.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.run)
        await trio.sleep(5)
        one, two = health.checkers
        assert (one.health, two.health) == (Health.UP, Health.DOWN)

        health.configure(_pool(check, 2, 3, 1))  # moved, added: the checkers of those that stay are the same
        assert health.checkers[0] is two
        assert health.checkers[2] is one
        assert [checker.index for checker in health.checkers] == [0, 1, 2]
        told.clear()
        await trio.sleep(5)
        assert told == [messages.SetHealth("p", 1, Health.UP, False)]

        health.configure(_pool(check, 3))  # removed: nobody asks it any more
        asked.clear()
        await trio.sleep(10)
        assert set(asked) == {"10.0.0.3"}

        other = HealthCheck(type=CheckType.HTTP, jitter=0.0, interval=1.0)
        health.configure(_pool(other, 3))  # asked otherwise: by another checker, which knows what is known
        assert health.checkers[0].health is Health.UP
        assert list(health.known()) == [messages.SetHealth("p", 0, Health.UP, False)]
        told.clear()
        asked.clear()
        await trio.sleep(5)
        assert told == []
        assert 4 <= len(asked) <= 6

        health.stop()
        asked.clear()
        await trio.sleep(10)
        assert asked == []

"""When checks are made, and what is told of them; in virtual time, with checks that follow a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, pairwise, repeat

import pytest
import trio

from lbproxy.control.checker import Checker
from lbproxy.core.config import Address, Backend, CheckType, HealthCheck, Pool
from lbproxy.core.health import CheckReport, CheckResult, Health, HealthChanged, Verdict
from tests.control.stubs import answering, http_answer, serving

UP = CheckResult(Verdict.UP, "GET /readyz answered 200", 200)
DOWN = CheckResult(Verdict.DOWN, "connection refused")
ADVISED = CheckResult(Verdict.UP, "GET /readyz answered 401 Unauthorized", 401, advice="set token_file")
CONFIG = HealthCheck(type=CheckType.HTTPS, jitter=0.0)


class Script:
    """A probe that yields given results, the last one for ever, each after `seconds`."""

    def __init__(self, results: Iterable[CheckResult], seconds: float = 0.0) -> None:
        given = list(results)
        self._results: Iterator[CheckResult] = chain(given, repeat(given[-1]))
        self._seconds = seconds
        self.starts: list[float] = []

    async def __call__(self, alive: trio.Event) -> CheckResult:
        self.starts.append(trio.current_time())
        await trio.sleep(self._seconds)
        return next(self._results)


class Run:
    """A checker with everything that it told."""

    def __init__(self, probe: Script, config: HealthCheck = CONFIG, random: Callable[[], float] = lambda: 0.0) -> None:
        self.probe = probe
        self.reports: list[CheckReport] = []
        self.checker = Checker(
            pool_of(config),
            pool_of(config).backends[0],
            0,
            on_check=self.reports.append,
            probe=probe,
            random=random,
            wall_clock=lambda: 1e9 + trio.current_time(),
        )

    async def until(self, time: float) -> None:
        with trio.move_on_at(time):
            await self.checker.run()

    @property
    def starts(self) -> list[float]:
        return [round(start, 6) for start in self.probe.starts]

    @property
    def changes(self) -> list[HealthChanged]:
        return [report.change for report in self.reports if report.change is not None]


def pool_of(config: HealthCheck, address: Address | None = None) -> Pool:
    backend = Backend(address or Address("10.0.0.1:6443", "10.0.0.1", 6443))
    return Pool("apiservers", (backend,), health_check=config)


async def test_the_first_check_is_made_at_once(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP]))
    assert (run.checker.health, run.checker.last) == (Health.UNKNOWN, None)
    await run.until(1)
    assert run.starts == [0.0]
    assert run.checker.health is Health.UP
    assert run.checker.last is run.reports[0]


async def test_first_checks_are_spread_over_a_tenth_of_a_second(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP]), random=lambda: 0.5)
    await run.until(1)
    assert run.starts == [0.05]


async def test_steady_checks_are_an_interval_apart_from_end_to_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    run = Run(Script([UP], seconds=0.25))
    await run.until(10)
    assert run.starts == [0.0, 2.25, 4.5, 6.75, 9.0]


async def test_jitter(autojump_clock: trio.testing.MockClock) -> None:
    randoms = iter([0.0, 0.0, 0.5, 0.75, 0.0, 0.0])
    run = Run(Script([UP]), replace(CONFIG, jitter=0.2), random=lambda: next(randoms))
    await run.until(8)
    assert run.starts == [0.0, 1.6, 3.6, 5.8, 7.4]


async def test_a_backend_that_stops_and_returns(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP, UP, DOWN, DOWN, DOWN, UP, UP, UP, UP]))
    await run.until(12)
    assert run.starts == [0.0, 2.0, 4.0, 4.5, 6.5, 8.5, 9.0, 9.5, 11.5]
    assert [(change.old, change.new) for change in run.changes] == [
        (Health.UNKNOWN, Health.UP),
        (Health.UP, Health.DOWN),
        (Health.DOWN, Health.UP),
    ]
    assert run.changes[1].reason == "connection refused (2 checks in a row)"


async def test_a_silent_backend_is_out_within_four_seconds(autojump_clock: trio.testing.MockClock) -> None:
    """With the worst of luck: the longest interval, and it falls silent right after a check."""
    silent = CheckResult(Verdict.DOWN, "no answer to TCP connect in 1s")

    class Backend(Script):
        async def __call__(self, alive: trio.Event) -> CheckResult:
            if trio.current_time() == 0:
                return await super().__call__(alive)
            await trio.sleep(HealthCheck().connect_timeout)
            return await super().__call__(alive)

    randoms = chain([0.0], repeat(1.0))
    run = Run(Backend([UP, silent]), HealthCheck(type=CheckType.HTTPS), random=lambda: next(randoms))
    await run.until(5)
    assert run.checker.health is Health.DOWN
    assert run.checker.since == pytest.approx(1e9 + 3.9)


async def test_who_does_not_show_up_is_asked_again_without_waiting(autojump_clock: trio.testing.MockClock) -> None:
    """But not once it is known to be down: then nothing is to be confirmed."""
    run = Run(Script([DOWN], seconds=1.0))
    await run.until(9)
    assert run.starts == [0.0, 0.5, 3.5, 6.5]
    assert len(run.reports) == 4


async def test_who_shows_up_has_its_time(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Script):
        async def __call__(self, alive: trio.Event) -> CheckResult:
            alive.set()
            return await super().__call__(alive)

    run = Run(Slow([UP], seconds=4.0))
    await run.until(11)
    assert run.starts == [0.0, 6.0]


async def test_the_report_and_the_attributes(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP, DOWN, DOWN], seconds=0.25))
    await run.until(5.5)
    first, second, third = run.reports
    assert (first.at, first.ok, first.clear_failures, first.error, first.status) == (1e9, True, True, None, 200)
    assert (second.at, second.ok, second.clear_failures, second.change) == (1e9 + 2.25, False, False, None)
    assert (second.error, second.status, second.verdict) == ("connection refused", None, Verdict.DOWN)
    assert third.change is not None
    assert run.checker.last is third
    assert (run.checker.health, run.checker.reason) == (Health.DOWN, third.change.reason)
    assert run.checker.since == 1e9 + 3.25  # the end of the check that decided


async def test_a_check_that_could_not_be_made_changes_nothing_and_clears_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    run = Run(Script([CheckResult(Verdict.NONE, "the check cannot be made: too many open files")]))
    await run.until(5)
    assert run.checker.health is Health.UNKNOWN
    assert run.changes == []
    assert not any(report.ok or report.clear_failures for report in run.reports)
    assert run.starts == [0.0, 2.0, 4.0]


# -- pokes -----------------------------------------------------------------------------------------------------


async def poked(run: Run, pokes: Iterable[float], until: float) -> None:
    async def poke() -> None:
        for time in pokes:
            await trio.sleep_until(time)
            run.checker.poke()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poke)
        await run.until(until)


async def test_a_poke_is_followed_by_a_check_at_once(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP]))
    await poked(run, [1.0], 5)
    assert run.starts == [0.0, 1.0, 3.0]


async def test_pokes_make_no_more_than_a_check_per_fast_interval(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP]))
    await poked(run, [tick / 100 for tick in range(300)], 2.9)
    assert run.starts == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


async def test_a_poke_during_a_check_leads_to_another(autojump_clock: trio.testing.MockClock) -> None:
    """The check under way may have connected before whatever went wrong."""
    run = Run(Script([UP], seconds=0.25))
    await poked(run, [0.1], 2.5)
    assert run.starts == [0.0, 0.75]


async def test_a_backend_that_is_down_is_not_checked_more_for_pokes(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([DOWN]))
    await poked(run, [tick / 10 for tick in range(100)], 9.9)
    assert run.starts[:3] == [0.0, 0.5, 2.5]
    assert all(later - earlier == 2.0 for earlier, later in pairwise(run.starts[1:]))


async def test_a_poke_finds_a_dead_backend_within_a_fast_interval(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP, UP, DOWN]))
    await poked(run, [2.6], 3.2)
    assert run.starts == [0.0, 2.0, 2.6, 3.1]
    assert run.checker.health is Health.DOWN


# -- advice ----------------------------------------------------------------------------------------------------


async def test_advice_is_in_the_change_and_not_repeated(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([ADVISED]))
    await run.until(10)
    assert [change.reason for change in run.changes] == ["GET /readyz answered 401 Unauthorized: set token_file"]
    assert [report.notice for report in run.reports] == [None] * 5


async def test_advice_that_comes_without_a_change_is_a_notice_once(autojump_clock: trio.testing.MockClock) -> None:
    checks = [UP, ADVISED, ADVISED, ADVISED, ADVISED, DOWN, ADVISED, ADVISED, ADVISED, UP, ADVISED, ADVISED, ADVISED]
    run = Run(Script(checks))
    await run.until(24)
    text = "GET /readyz answered 401 Unauthorized: set token_file"
    # It is given when it has lasted. A failure in between does not mean that it was followed; a good check does, and
    # when it is needed again it is given again.
    noticed = [number for number, report in enumerate(run.reports) if report.notice is not None]
    assert noticed == [3, 12]
    assert {run.reports[number].notice for number in noticed} == {text}


async def test_advice_that_passes_by_itself_is_not_given(autojump_clock: trio.testing.MockClock) -> None:
    run = Run(Script([UP, ADVISED, ADVISED, UP, ADVISED, UP, UP]))
    await run.until(13)
    assert [report.notice for report in run.reports] == [None] * len(run.reports)


# -- the rest --------------------------------------------------------------------------------------------------


async def test_type_none_is_never_checked(autojump_clock: trio.testing.MockClock) -> None:
    reports: list[CheckReport] = []
    pool = pool_of(HealthCheck(type=CheckType.NONE))
    checker = Checker(pool, pool.backends[0], 0, on_check=reports.append)
    await checker.run()
    checker.poke()
    assert (checker.health, checker.last, reports) == (Health.UNKNOWN, None, [])
    assert checker.reason == "health_check.type is none"


async def test_over_a_real_connection() -> None:
    """Without a script: the checker makes its own probe of the backend's address."""
    async with serving(answering(http_answer(500, b"[-]etcd failed: reason withheld\n"))) as address:
        send, receive = trio.open_memory_channel[CheckReport](10)
        pool = pool_of(HealthCheck(type=CheckType.HTTP, connect_timeout=10.0), address)
        checker = Checker(pool, pool.backends[0], 0, on_check=send.send_nowait)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(checker.run)
                report = await receive.receive()
                nursery.cancel_scope.cancel()
    assert report.change == HealthChanged(
        Health.UNKNOWN, Health.NOT_READY, "GET /readyz answered 500: [-]etcd failed", ("etcd",)
    )
    assert report.latency_seconds > 0

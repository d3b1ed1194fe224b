"""Checks one backend for as long as lbproxy runs, and says what changed.

There is one checker per backend in the control plane, not one per worker: an apiserver sees at most one check a
second from a balancer, whatever its number of cores. Checkers of a pool start within a tenth of a second of one
another, because a balancer has to serve within a second of its start; the jitter of the interval does the rest.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from lbproxy.control.probe import Probe
from lbproxy.core.check_counts import CheckCounts
from lbproxy.core.config import Backend, CheckType, Pool
from lbproxy.core.health import CheckReport, CheckResult, Health, HealthChanged, HealthMachine, Verdict

FIRST_OFFSET = 0.1  # seconds over which the first checks are spread
REMEMBERED = 20  # checks
LASTING = 3  # checks in a row that give an advice before it is passed on


class Checker:
    """The health of one backend.

    `on_check` is told of every check, synchronously; `needed` says whether no other backend of the pool is up.
    """

    def __init__(
        self,
        pool: Pool,
        backend: Backend,
        index: int,
        *,
        on_check: Callable[[CheckReport], None],
        needed: Callable[[], bool] = lambda: False,
        probe: Callable[[trio.Event], Awaitable[CheckResult]] | None = None,
        random: Callable[[], float] = random.random,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        self.backend = backend
        self.index = index
        self.reason = "not checked yet"
        self.since = wall_clock()  # of `health`, seconds since the epoch
        self.last: CheckReport | None = None
        self.recent: deque[CheckReport] = deque(maxlen=REMEMBERED)  # newest last
        self.counts = CheckCounts()
        self.clock = clock
        self._check = pool.health_check
        self._machine = HealthMachine(self._check)
        self._on_check = on_check
        self._needed = needed
        self._random = random
        self._wall_clock = wall_clock
        self._advice = ""  # given last
        self._advised = 0  # checks in a row that came with some
        self._poked = trio.Event()
        self._probe = probe
        if self._check.type is CheckType.NONE:
            self.reason = "health_check.type is none"
        elif probe is None:
            self._probe = Probe(self._check, backend.address).run

    def configure(self, pool: Pool, backend: Backend, index: int) -> None:
        """The same backend and the same check in a new configuration."""
        self.pool, self.backend, self.index = pool, backend, index

    def inherit(self, other: Checker) -> None:
        """Begin with what another checker has found out of the same backend."""
        self.last = other.last
        self.recent.extend(other.recent)
        self.counts = other.counts
        if self._probe is not None:
            self.reason, self.since = other.reason, other.since
            self._machine = HealthMachine(self._check, other.health)
        else:  # nobody would ever find out that it is back
            self.counts.begin(self.health, self.clock())

    def recall(self, health: Health, reason: str, since: float) -> None:
        """Begin with what a predecessor has found out."""
        if self._probe is not None:
            self.reason, self.since = reason, since
            self.counts.begin(health, self.clock())
            self._machine = HealthMachine(self._check, health)

    @property
    def health(self) -> Health:
        return self._machine.health

    def poke(self) -> None:
        """A live connection found the backend failing: check now, unless it is known to be down."""
        if self.health is not Health.DOWN:
            self._poked.set()

    async def run(self) -> None:
        """Check until cancelled; with `type: none` return at once, and the health stays unknown, which is usable."""
        if self._probe is None:
            return
        await trio.sleep(FIRST_OFFSET * self._random())
        while True:
            await self._round()
            await self._wait()

    async def _round(self) -> None:
        """One check; and as long as nobody shows up, those that would confirm its verdict, without awaiting its end.

        A dead host answers nothing, so a check of it takes as long as it may. One after the other, two would take so
        long that what is connected to it stands still for another two seconds.
        """
        check = self._check
        async with trio.open_nursery() as nursery:
            for _ in range(1 if self.health is Health.DOWN else check.fall):
                alive = trio.Event()
                nursery.start_soon(self._check_once, alive)
                with trio.move_on_after(min(check.fast_interval, check.interval)):
                    await alive.wait()
                if alive.is_set():
                    break

    async def _check_once(self, alive: trio.Event) -> None:
        assert self._probe is not None
        at = self._wall_clock()
        result = await self._probe(alive)
        alive.set()  # alive or dead, it is known
        self._take(at, result)

    def _take(self, at: float, result: CheckResult) -> None:
        change = self._machine.observe(result, needed=self._needed())
        if change is not None:
            self.reason, self.since = change.reason, self._wall_clock()
        self.last = CheckReport(at, result, change, self._notice(result, change))
        self.recent.append(self.last)
        self.counts.note(result, change, self.clock())
        self._on_check(self.last)

    def _notice(self, result: CheckResult, change: HealthChanged | None) -> str | None:
        """Advice, once, and when it lasts: a starting apiserver refuses everybody until it has its RBAC rules."""
        if not result.advice:
            self._advised = 0
            if result.verdict is Verdict.UP:
                self._advice = ""  # it has been followed
            return None
        self._advised += 1
        if change is not None and result.advice in change.reason:
            self._advice = result.advice
        if result.advice == self._advice or self._advised < LASTING:
            return None
        self._advice = result.advice
        return f"{result.reason}: {result.advice}"

    async def _wait(self) -> None:
        """Until the next check is due, or a poke; but never less than `fast_interval`."""
        check, now = self._check, trio.current_time()
        earliest = now + min(check.fast_interval, check.interval)
        due = now + self._machine.next_delay(self._random, needed=self._needed())
        with trio.move_on_at(max(earliest, due)):  # one wake-up, if nothing happens
            await self._poked.wait()
            await trio.sleep_until(earliest)
        self._poked = trio.Event()

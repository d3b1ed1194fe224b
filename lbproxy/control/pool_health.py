"""The health of a pool's backends: tells the workers and the log what changes, and sees the pool as a whole.

What one check says concerns one backend. What nobody can see there is seen here: that no backend of a pool is ready.
Then those that are alive get the traffic (`fail open`): an apiserver whose /readyz fails still answers most of what it
is asked, and refusing everybody would turn a limp into an outage. `all_down: reject` asks for just that, but not where
the only thing wrong is etcd: that is the same one behind every apiserver, and says nothing about any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import trio

from lbproxy.admin.log import EventLog
from lbproxy.admin.view import BackendView
from lbproxy.control.checker import Checker
from lbproxy.core import messages
from lbproxy.core.config import AllDown, Backend, BackendState, Pool
from lbproxy.core.health import CheckReport, Health, Verdict, is_etcd_alone

BLAME_INTERVAL = 60.0  # seconds between two lines about failures of one backend that no check has refuted


class PoolHealth:
    """One pool: its checkers, and whether it fails open."""

    def __init__(self, pool: Pool, log: EventLog, tell: Callable[[messages.ToWorker], None]) -> None:
        self.pool = pool
        self.fail_open = False
        self.fail_opens = 0  # times that it has begun
        self._log = log
        self._tell = tell
        # When a line was last written about backends that live traffic has failed on since their last good check
        self._blamed: dict[Checker, float] = {}
        self._running: dict[Checker, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self.checkers = [self._checker(backend, index) for index, backend in enumerate(pool.backends)]

    async def run(self) -> None:
        """Check until stopped."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for checker in self.checkers:
                nursery.start_soon(self._keep_checking, checker)
            await trio.sleep_forever()

    def stop(self) -> None:
        """The pool is in the configuration no more."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def configure(self, pool: Pool) -> None:
        """Take on what lb.yaml says: a backend that stays keeps its health, and its checker if that asks the same."""
        known = {one.backend.address.text: one for one in self.checkers}
        same_check = pool.health_check == self.pool.health_check
        self.pool = pool
        self.checkers = []
        for index, backend in enumerate(pool.backends):
            old = known.get(backend.address.text)
            if old is not None and same_check:
                del known[backend.address.text]
                old.configure(pool, backend, index)
                self.checkers.append(old)
                continue
            new = self._checker(backend, index)
            if old is not None:
                new.inherit(old)
            self.checkers.append(new)
            if self._nursery is not None:
                self._nursery.start_soon(self._keep_checking, new)
        for gone in known.values():
            self._blamed.pop(gone, None)
            self._running.pop(gone, trio.CancelScope()).cancel()
        self._look_at_all()

    def _checker(self, backend: Backend, index: int) -> Checker:
        checker = Checker(
            self.pool,
            backend,
            index,
            on_check=lambda report: self._on_check(checker, report),
            needed=lambda: not any(one.health is Health.UP for one in self.checkers if one is not checker),
        )
        return checker

    async def _keep_checking(self, checker: Checker) -> None:
        with trio.CancelScope() as self._running[checker]:
            await checker.run()

    def views(self) -> list[BackendView]:
        return [
            BackendView(
                one.backend,
                one.health,
                one.reason,
                one.since,
                one.last,
                tuple(one.recent),
                one.counts,
                one.counts.downtime(one.clock()),
            )
            for one in self.checkers
        ]

    def known(self) -> Iterator[messages.SetHealth | messages.SetFailOpen]:
        """What a worker has to be told that is new, or keeps what it knew under another configuration."""
        for one in self.checkers:
            yield messages.SetHealth(self.pool.name, one.index, one.health, False)
        if self.fail_open:
            yield messages.SetFailOpen(self.pool.name, True)

    def state(self) -> list[tuple[str, str, str, float]]:
        """For a successor: address, health, reason, since when."""
        return [(one.backend.address.text, one.health.value, one.reason, one.since) for one in self.checkers]

    def restore(self, state: list[tuple[str, str, str, float]]) -> None:
        """What a predecessor knew."""
        checkers = {checker.backend.address.text: checker for checker in self.checkers}
        for address, health, reason, since in state:
            if address in checkers and health != Health.UNKNOWN.value:
                checkers[address].recall(Health(health), reason, since)
        self._look_at_all()

    def on_backend_failed(self, message: messages.BackendFailed) -> None:
        """Live traffic has seen a backend fail: check it now instead of at the next interval."""
        checker = self.checkers[message.backend]
        now = trio.current_time()
        if now - self._blamed.get(checker, -math.inf) >= BLAME_INTERVAL:
            self._blamed[checker] = now
            address = checker.backend.address.text
            text = f"backend {address} of pool {message.pool} failed in live traffic: {message.reason}"
            self._log.warning("backend_failed", text, pool=message.pool, backend=address, reason=message.reason)
        checker.poke()

    def _on_check(self, checker: Checker, report: CheckReport) -> None:
        index, name = checker.index, self.pool.name
        clear = report.clear_failures and checker in self._blamed
        if clear:
            del self._blamed[checker]
        if report.change is not None or clear:
            self._tell(messages.SetHealth(name, index, checker.health, clear))
        if report.change is not None:
            change, address = report.change, checker.backend.address.text
            say = self._log.info if change.new is Health.UP else self._log.warning
            say(
                "health",
                f"backend {address} of pool {name} is {change.new.value}: {change.reason}",
                pool=name,
                backend=address,
                health=change.new.value,
                was=change.old.value,
                reason=change.reason,
                eligible=sum(view.eligible for view in self.views()),
            )
        if report.notice is not None:
            self._log.warning("check_notice", report.notice, pool=name, backend=checker.backend.address.text)
        self._look_at_all()

    def _look_at_all(self) -> None:
        """Does the pool fail open now?"""
        in_use = [one for one in self.checkers if one.backend.state is BackendState.READY]
        alive = [one for one in in_use if one.health is Health.NOT_READY]
        ready = any(one.health in (Health.UP, Health.UNKNOWN) for one in in_use)
        fail_open = bool(alive) and not ready and (self.pool.all_down is AllDown.TRY or _etcd_alone(in_use))
        if fail_open == self.fail_open:
            return
        self.fail_open = fail_open
        name = self.pool.name
        self._tell(messages.SetFailOpen(name, fail_open))
        if fail_open:
            self.fail_opens += 1
            who = ", ".join(one.backend.address.text for one in alive)
            text = f"pool {name} fails open: no backend is ready, so those that are alive get the traffic: {who}"
            self._log.warning("fail_open", text, pool=name, fail_open=True, reason=alive[0].reason)
        elif ready:
            self._log.info("fail_open", f"pool {name} has a ready backend again", pool=name, fail_open=False)
        else:
            text = f"pool {name} has no backend that is alive: everybody is refused"
            self._log.error("fail_open", text, pool=name, fail_open=False)


def _etcd_alone(checkers: list[Checker]) -> bool:
    """Whether every backend says that it is fine but for etcd."""
    return all(
        one.last is not None and one.last.verdict is Verdict.NOT_READY and is_etcd_alone(one.last.result)
        for one in checkers
    )

"""What checks say of a backend, and when they are believed.

Theory of operation. A check makes a new connection and asks for /readyz; it ends in one of three verdicts:

    up          the answer is an expected one
    not_ready   somebody is there (TCP works, TLS works or is refused in its own words), but the answer is another
                one, or slow, or none
    down        nobody is there: no TCP, or no TLS

They are kept apart because they ask for opposite things. An apiserver that is not ready is shutting down or waiting
for etcd: it gets nothing new, and what it still serves must not be touched. One that is down serves nothing, and what
is connected to it hangs until somebody cuts it.

`HealthMachine` turns verdicts into a backend's health. One lost packet must not empty a pool and one lucky answer
must not fill it, so a change needs several checks in a row:

    from \\ verdict   up                        not_ready                    down
    unknown          up                        not_ready                    down
    up               -                         not_ready after `fall` (1)   down after `fall` (2)
    not_ready        up after `rise` (3)       -                            down after `fall`
    down             up after `rise` (3)       not_ready (4)                -

    (1) at once when /readyz names `shutdown`: the apiserver sets that on SIGTERM, says it until its listener closes,
        and with its default delay of 0 s there is no second chance to hear it.
    (2) `fall` checks in a row that all say down. A mixture of not_ready and down is not_ready after `fall`.
    (3) at once as long as it has never been up: a balancer that starts with its cluster must not add a delay. Later
        `rise` is a guard: a rebooted master answers /readyz some 20 s before its pod network works. But where no other
        backend is up there is nobody to be careful for: then one success is enough, and it is looked for all the time.
    (4) at once: that brings no traffic, except where nobody better is left.

A verdict of `none` says that the check could not be made (no file descriptor, no readable CA file): no news is
neither good nor bad, and changes nothing.

A 401 or 403 comes from an apiserver that is well enough to refuse us. That is what /readyz says everywhere where
anonymous access is off, so it counts as up, and `advice` tells the operator what to configure.

While verdicts disagree with the health, checks are `fast_interval` apart, but for a few checks only: a backend that
says something else each time would else be checked for ever at that pace. While nobody shows up at all, the check
that would confirm it begins before the first has used up its budget. With the defaults one that falls silent right
after a check is out after 2.4 s (interval and jitter) + 0.5 s + 1 s (connect) = 3.9 s, a process that hangs after 2.4 +
0.5 + 2 = 4.9 s.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from lbproxy.core.config import HealthCheck

SHUTDOWN = "shutdown"  # the name of the apiserver's readiness check that fails from SIGTERM on
MAX_BODY = 16384  # bytes of an answer's body that are looked at; a verbose /readyz has 2 to 4 KiB
_MAX_NAMED = 8  # failed checks named in a reason; a starting apiserver fails some thirty
_MAX_EXCERPT = 100  # characters of any other body shown in a reason
_FAILED_CHECK = re.compile(rb"^\[-\]([!-~]{1,100}) failed", re.MULTILINE)


class Health(Enum):
    """The verdict of the health checks (the operator's word is `config.BackendState`)."""

    UNKNOWN = "unknown"
    UP = "up"
    NOT_READY = "not_ready"
    DOWN = "down"


class Verdict(Enum):
    """What one check says."""

    UP = "up"
    NOT_READY = "not_ready"
    DOWN = "down"
    NONE = "none"  # it could not be made


_HEALTH = {Verdict.UP: Health.UP, Verdict.NOT_READY: Health.NOT_READY, Verdict.DOWN: Health.DOWN}


@dataclass(frozen=True, slots=True)
class CheckTimes:
    """Seconds that each stage of a check took; None for a stage that was not reached."""

    connect: float | None = None
    tls: float | None = None
    answer: float | None = None

    @property
    def total(self) -> float:
        return sum(stage for stage in (self.connect, self.tls, self.answer) if stage is not None)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check ended. `reason` is the verdict's cause in the operator's words, also when all is well."""

    verdict: Verdict
    reason: str
    status: int | None = None
    failed_checks: tuple[str, ...] = ()  # the NAMEs of the answer's `[-]NAME failed` lines
    advice: str = ""  # what to configure so that the check can do its work
    times: CheckTimes = CheckTimes()
    certificate_expires: float | None = None  # the backend's, if it showed one; seconds since the epoch


@dataclass(frozen=True, slots=True)
class HealthChanged:
    old: Health
    new: Health
    reason: str
    failed_checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A check's result and what followed from it."""

    at: float  # when the check began, seconds since the epoch
    result: CheckResult
    change: HealthChanged | None
    notice: str | None  # advice that was not given before and that `change` does not give: to be logged once

    @property
    def ok(self) -> bool:
        return self.result.verdict is Verdict.UP

    @property
    def clear_failures(self) -> bool:
        """Whether passive failures held against the backend are refuted."""
        return self.ok

    @property
    def verdict(self) -> Verdict:
        return self.result.verdict

    @property
    def status(self) -> int | None:
        return self.result.status

    @property
    def times(self) -> CheckTimes:
        return self.result.times

    @property
    def latency_seconds(self) -> float:
        return self.result.times.total

    @property
    def error(self) -> str | None:
        return None if self.ok else self.result.reason


class HealthMachine:
    """One backend's health; see the theory of operation above."""

    __slots__ = ("_check", "_confirm", "_deaths", "_failures", "_odd", "_successes", "_was_up", "health")

    def __init__(self, check: HealthCheck, health: Health = Health.UNKNOWN) -> None:
        self.health = health  # what is known already
        self._check = check
        self._was_up = health is not Health.UNKNOWN
        self._confirm = False  # the health rests on a single failed check
        self._odd = 0  # checks in a row whose verdict was not the health
        self._successes = 0  # checks in a row that said up ...
        self._failures = 0  # ... that said something else ...
        self._deaths = 0  # ... and that said down

    def observe(self, result: CheckResult, *, needed: bool = False) -> HealthChanged | None:
        """Take a check's result into account and return the change that it makes, if any.

        `needed`: no other backend of the pool is up.
        """
        if result.verdict is Verdict.NONE:
            return None
        self._count(result.verdict)
        old, new = self.health, self._believed(result, needed)
        self._confirm = old is Health.UNKNOWN and new is not Health.UP
        self._odd = 0 if _HEALTH[result.verdict] is new else self._odd + 1
        if new is old:
            return None
        self.health = new
        self._was_up = self._was_up or new is Health.UP
        return HealthChanged(old, new, self._explain(result), result.failed_checks)

    @property
    def in_transition(self) -> bool:
        """Whether the next check is awaited eagerly."""
        return self._confirm or 0 < self._odd <= max(self._check.rise, self._check.fall)

    def next_delay(self, random: Callable[[], float], *, needed: bool = False) -> float:
        """Seconds from the end of this check to the next; `random` is uniform in [0, 1).

        `fast_interval` has no jitter: it is short, and the bound on detection counts on it.
        """
        check = self._check
        if self.in_transition or (needed and self.health is not Health.UP):
            return min(check.fast_interval, check.interval)
        return check.interval * (1 + check.jitter * (2 * random() - 1))

    def _count(self, verdict: Verdict) -> None:
        self._successes = self._successes + 1 if verdict is Verdict.UP else 0
        self._failures = self._failures + 1 if verdict is not Verdict.UP else 0
        self._deaths = self._deaths + 1 if verdict is Verdict.DOWN else 0

    def _believed(self, result: CheckResult, needed: bool) -> Health:
        match result.verdict:
            case Verdict.UP:
                risen = self._successes >= self._check.rise or not self._was_up or needed
                return Health.UP if risen else self.health
            case Verdict.NOT_READY:
                at_once = self.health is not Health.UP or SHUTDOWN in result.failed_checks
                return Health.NOT_READY if at_once or self._failures >= self._check.fall else self.health
            case _:
                if self.health is Health.UNKNOWN or self._deaths >= self._check.fall:
                    return Health.DOWN
                fallen = self.health is Health.UP and self._failures >= self._check.fall
                return Health.NOT_READY if fallen else self.health

    def _explain(self, result: CheckResult) -> str:
        in_a_row = self._successes or self._failures
        reason = f"{result.reason}: {result.advice}" if result.advice else result.reason
        return f"{reason} ({in_a_row} checks in a row)" if in_a_row > 1 else reason


def is_etcd_alone(result: CheckResult) -> bool:
    """Whether a check says that nothing is wrong with this backend but etcd, which all backends share."""
    names = result.failed_checks
    return bool(names) and all(name == "etcd" or name.startswith("etcd-") for name in names)


def judge_answer(check: HealthCheck, status: int, body: bytes) -> CheckResult:
    """The verdict on an HTTP answer. `body` may be its beginning only."""
    said = f"GET {check.path} answered {status}"
    if status in check.expect:
        return CheckResult(Verdict.UP, said, status)
    if status in (401, 403):
        words = "Unauthorized" if status == 401 else "Forbidden"
        return CheckResult(Verdict.UP, f"{said} {words}", status, advice=_advice(check, status))
    failed = tuple(dict.fromkeys(name.decode("ascii") for name in _FAILED_CHECK.findall(body)))
    detail = _name_failed(failed) if failed else _excerpt(body)
    return CheckResult(Verdict.NOT_READY, f"{said}: {detail}" if detail else said, status, failed)


def _advice(check: HealthCheck, status: int) -> str:
    shown = " or ".join(
        f"health_check.{name}" for name in ("token_file", "client_cert") if getattr(check, name) is not None
    )
    if status == 401:
        if shown:
            return f"the backend is alive but does not accept {shown}"
        return "anonymous auth is off; set health_check.token_file or client_cert"
    who = f"the user of {shown}" if shown else "an anonymous client"
    return (
        f"the backend is alive, but {who} may not GET {check.path}; allow it, or set another token_file or client_cert"
    )


def _name_failed(names: tuple[str, ...]) -> str:
    text = ", ".join(f"[-]{name} failed" for name in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return f"{text} and {more} more" if more > 0 else text


def _excerpt(body: bytes) -> str:
    """The body's first line, made fit for a log."""
    line = body.strip()[: 4 * _MAX_EXCERPT].split(b"\n", 1)[0].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in line.rstrip())[:_MAX_EXCERPT]

"""What `lbproxy top` knows: answers of /status one after the other, and what follows from two of them.

Rates are differences of counters over the last seconds; changes are what was different from one answer to the next.
Nothing here reads a clock or a socket. Texts of lb.yaml and of backends go to a terminal, so what could move its cursor
is taken out of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

WINDOW = 3.0  # seconds that a rate is about
KEPT = 240  # rates that are remembered: as many as a wide terminal shows
CHANGES = 100  # that are remembered

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One health check."""

    verdict: str  # up, not_ready, down, none
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Streams:
    """Long streams of one kind. `ages` are counts by age, youngest first."""

    kind: str
    count: int
    oldest: float  # seconds
    ages: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend. A rate is per second, and None as long as there is nothing to compare with."""

    pool: str
    address: str
    backup: bool
    weight: int
    state: str  # ready, drain, maint
    set_at_runtime: bool
    health: str  # up, not_ready, down, unknown
    reason: str
    since: float  # seconds since the epoch
    eligible: bool
    active: int
    total: int
    failed: int
    long_streams: int
    streams: tuple[Streams, ...]
    retries: int
    bytes_in: int
    bytes_out: int
    checks: tuple[Check, ...]
    rate: float | None  # requests, or connections in tcp mode
    fail_rate: float | None
    rate_in: float | None  # bytes
    rate_out: float | None

    @property
    def verdict(self) -> str:
        """What the operator says, and if he says nothing, what the checks say."""
        return self.state if self.state != "ready" else self.health


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool."""

    name: str
    balance: str
    fail_open: bool
    spread: float
    backends: tuple[Backend, ...]

    @property
    def ready(self) -> int:
        """How many get connections."""
        return sum(one.eligible for one in self.backends)


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener."""

    name: str
    bind: str
    mode: str
    pool: str
    active: int
    refused: int
    resumed: int  # watches that went on elsewhere
    not_resumed: int
    moved: int  # watches ended cleanly or moved
    accept_rate: float | None
    request_rate: float | None


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process."""

    pid: int
    ready: bool
    connections: int


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease. Seconds."""

    name: str
    since: float  # the last renewal
    longest: float  # gap between two


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is different. `kind` is good, bad, warn or note."""

    at: float  # seconds since the epoch
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that one answer said."""

    at: float  # seconds since the epoch
    version: str
    uptime: float
    draining: bool
    path: str
    config_error: str
    workers: tuple[Worker, ...]
    listeners: tuple[Listener, ...]
    pools: tuple[Pool, ...]
    leases: tuple[Lease, ...]
    leases_known: int
    trend: tuple[float, ...]  # requests per second, newest last
    changes: tuple[Change, ...]  # newest first

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple(backend for pool in self.pools for backend in pool.backends)


class History:
    """Remembers as much of the past as the next look needs."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, Json]] = deque()
        self._trend: deque[float] = deque(maxlen=KEPT)
        self._changes: deque[Change] = deque(maxlen=CHANGES)

    def note(self, at: float, text: str, kind: str) -> None:
        """Something that no answer says: that there was none."""
        self._changes.appendleft(Change(at, text, kind))

    def take(self, at: float, status: Json) -> Look:
        """What an answer of /status means; `at` is seconds since the epoch."""
        last = self._answers[-1][1] if self._answers else None
        if last is None:
            self._changes.extend(_first(status))
        elif status["uptime_s"] < last["uptime_s"]:
            self._answers.clear()
            self.note(at, "lbproxy was started anew", "warn")
        else:
            self._changes.extendleft(_changes(at, last, status))
        # One that is as old as the window is needed, older ones are not.
        while len(self._answers) > 1 and self._answers[1][0] <= at - WINDOW:
            self._answers.popleft()
        since, before = self._answers[0] if self._answers else (at, {})
        if last is not None and self._answers:
            self._trend.append(_request_rate(status, *_newest(self._answers), at))
        self._answers.append((at, status))
        return _look(at, status, before, at - since, tuple(self._trend), tuple(self._changes))


def printable(text: object) -> str:
    """A text without what moves the cursor or changes colours."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def _newest(answers: deque[tuple[float, Json]]) -> tuple[float, Json]:
    return answers[-1]


def _request_rate(status: Json, before_at: float, before: Json, at: float) -> float:
    return _rate(_work(status), _work(before), at - before_at) or 0.0


def _work(status: Json) -> int:
    """Requests, and connections of listeners that know no requests."""
    return sum(one["requests"] if one["mode"] == "http" else one["accepted"] for one in status["listeners"])


def _rate(now: float, before: float | None, seconds: float) -> float | None:
    """Per second; None if nothing is known of before."""
    if before is None or seconds <= 0:
        return None
    return max(now - before, 0.0) / seconds


def _look(
    at: float, status: Json, before: Json, seconds: float, trend: tuple[float, ...], changes: tuple[Change, ...]
) -> Look:
    known = _backends(before)
    listeners = {one["name"]: one for one in before.get("listeners", ())}
    leases = status.get("leases") or {"known": 0, "shown": []}
    return Look(
        at=at,
        version=printable(status["version"]),
        uptime=status["uptime_s"],
        draining=status["draining"],
        path=printable(status["config"]["path"]),
        config_error=printable((status["config"]["error"] or "").partition("\n")[0]),
        workers=tuple(Worker(one["pid"], one["ready"], one["connections"]) for one in status["workers"]),
        listeners=tuple(_listener(one, listeners.get(one["name"], {}), seconds) for one in status["listeners"]),
        pools=tuple(
            Pool(
                name=printable(pool["name"]),
                balance=printable(pool["balance"]),
                fail_open=pool["fail_open"],
                spread=pool["spread"],
                backends=tuple(
                    _backend(pool["name"], one, known.get((pool["name"], one["address"]), {}), seconds)
                    for one in pool["backends"]
                ),
            )
            for pool in status["pools"]
        ),
        leases=tuple(Lease(printable(one["name"]), one["since_s"], one["longest_gap_s"]) for one in leases["shown"]),
        leases_known=leases["known"],
        trend=trend,
        changes=changes,
    )


def _listener(one: Json, before: Json, seconds: float) -> Listener:
    watches = one["watches"]
    return Listener(
        name=printable(one["name"]),
        bind=printable(", ".join(one["bind"])),
        mode=one["mode"],
        pool=printable(one["pool"]),
        active=one["active"],
        refused=one["refused"],
        resumed=watches["resumed"],
        not_resumed=watches["not_resumed"],
        moved=watches["ended"] + watches["rebalanced"],
        accept_rate=_rate(one["accepted"], before.get("accepted"), seconds),
        request_rate=_rate(one["requests"], before.get("requests"), seconds) if one["mode"] == "http" else None,
    )


def _backend(pool: str, one: Json, before: Json, seconds: float) -> Backend:
    return Backend(
        pool=printable(pool),
        address=printable(one["address"]),
        backup=one["backup"],
        weight=one["weight"],
        state=one["state"],
        set_at_runtime=one["set_at_runtime"],
        health=one["health"],
        reason=printable(one["reason"]),
        since=_epoch(one["since"]),
        eligible=one["eligible"],
        active=one["active"],
        total=one["total"],
        failed=one["failed"],
        long_streams=one["long_streams"],
        streams=tuple(
            Streams(printable(kind), streams["count"], streams["oldest_s"], tuple(streams["ages"].items()))
            for kind, streams in one["streams"].items()
            if streams["count"]
        ),
        retries=sum(one["retries"].values()),
        bytes_in=one["bytes_in"],
        bytes_out=one["bytes_out"],
        checks=tuple(Check(check["verdict"], check["latency_ms"]) for check in one["checks"]),
        rate=_rate(one["total"], before.get("total"), seconds),
        fail_rate=_rate(one["failed"], before.get("failed"), seconds),
        rate_in=_rate(one["bytes_in"], before.get("bytes_in"), seconds),
        rate_out=_rate(one["bytes_out"], before.get("bytes_out"), seconds),
    )


def _backends(status: Json) -> dict[tuple[str, str], Json]:
    return {(pool["name"], one["address"]): one for pool in status.get("pools", ()) for one in pool["backends"]}


def _epoch(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


# -- changes -------------------------------------------------------------------------------------------------------


def _first(status: Json) -> Iterator[Change]:
    """What the first answer tells of the past, newest first."""
    found = [_health(key, one) for key, one in _backends(status).items() if one["health"] != "unknown"]
    found.append(Change(_epoch(status["config"]["loaded_at"]), "configuration loaded", "note"))
    yield from sorted(found, key=lambda change: change.at, reverse=True)


def _changes(at: float, before: Json, status: Json) -> Iterator[Change]:
    """What is different, oldest first."""
    yield from sorted(_of_backends(at, before, status), key=lambda change: change.at)
    yield from _of_pools(at, before, status)
    yield from _of_the_process(at, before, status)


def _of_backends(at: float, before: Json, status: Json) -> Iterator[Change]:
    known, now = _backends(before), _backends(status)
    for key, one in now.items():
        name = f"{one['address']} of {key[0]}"
        old = known.get(key)
        if old is None:
            yield Change(at, printable(f"{name} is new"), "note")
            continue
        if (one["health"], one["since"]) != (old["health"], old["since"]):
            yield _health(key, one)
        if one["state"] != old["state"]:
            yield Change(at, printable(f"{name} set to {one['state']}"), "good" if one["state"] == "ready" else "warn")
        if one["weight"] != old["weight"]:
            yield Change(at, printable(f"{name} has weight {one['weight']}, had {old['weight']}"), "note")
    for pool, address in known.keys() - now.keys():
        yield Change(at, printable(f"{address} of {pool} was removed"), "note")


def _health(key: tuple[str, str], one: Json) -> Change:
    kind = {"up": "good", "not_ready": "warn", "down": "bad"}.get(one["health"], "note")
    health = one["health"].replace("_", " ")
    return Change(_epoch(one["since"]), printable(f"{one['address']} of {key[0]} {health}: {one['reason']}"), kind)


def _of_pools(at: float, before: Json, status: Json) -> Iterator[Change]:
    known = {pool["name"]: pool["fail_open"] for pool in before["pools"]}
    for pool in status["pools"]:
        if pool["fail_open"] != known.get(pool["name"], False):
            does = "fails open: no backend is ready" if pool["fail_open"] else "fails open no more"
            yield Change(at, printable(f"{pool['name']} {does}"), "bad" if pool["fail_open"] else "good")


def _of_the_process(at: float, before: Json, status: Json) -> Iterator[Change]:
    pids, known = _pids(status), _pids(before)
    if pids - known or known - pids:
        yield Change(
            at, f"workers: {_numbers('new', pids - known)}{_numbers('gone', known - pids)}".rstrip(", "), "warn"
        )
    if status["config"]["loaded_at"] != before["config"]["loaded_at"]:
        yield Change(at, "configuration reloaded", "note")
    error = status["config"]["error"]
    if error and error != before["config"]["error"]:
        yield Change(at, printable(f"reload refused: {error.partition(chr(10))[0]}"), "bad")
    if status["draining"] and not before["draining"]:
        yield Change(at, "lbproxy drains: it stops", "warn")


def _pids(status: Json) -> set[int]:
    return {one["pid"] for one in status["workers"]}


def _numbers(word: str, pids: Iterable[int]) -> str:
    found = " ".join(map(str, sorted(pids)))
    return f"{word} {found}, " if found else ""

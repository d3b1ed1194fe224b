"""The counting: from what the clients wrote down, what etcd stored and what the masters were asked, to one result.

Pure functions. A result counts from the moment of the fault; what went wrong before it is a fault of the test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from tests.cluster.chaos.audit import CONTROLLERS, Asked, renewals
from tests.cluster.chaos.history import Stored
from tests.cluster.chaos.journal import Call, Event

SLOW = 2.0  # seconds: whoever waits longer for an answer or an event has noticed
READS = ("get", "list")
WRITES = ("create", "apply")
LONG = ("watch", "rollout")
PEACE = 2.0  # seconds without trouble, after which the next one is another one
LEASES = ("kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, slots=True)
class Evidence:
    calls: Sequence[Call]
    events: Sequence[Event]
    stored: Sequence[Stored]  # in the watched namespace
    executed: Mapping[str, int]  # key of a mutation: how many changes it has made
    asked: Sequence[Asked]
    fault: float
    end: float
    watched: str  # the namespace
    leaders_lost: int
    managers_ended: int
    deaf: int  # reflectors that a change did not reach when all was over
    recovered: bool = True  # everybody was at work again soon after the fault, and saw what was stored


@dataclass(frozen=True, slots=True)
class Client:
    """Errors by what was tried; how many calls there were, how many took longer than SLOW, and the longest."""

    calls: int
    errors: dict[str, int]
    slow: int
    worst: float
    first_error: str


@dataclass(frozen=True, slots=True)
class Watcher:
    events: int
    missed: int
    doubled: int
    backwards: int  # events older than the one before
    ended: int  # streams whose end their user noticed
    worst_delay: float  # seconds from a mutation's acknowledgement to its event


@dataclass(frozen=True, slots=True)
class Mutations:
    sent: int
    acknowledged: int
    failed_executed: int  # executed, though their client was told of a failure
    failed: int  # neither
    doubled: int
    lost: int  # acknowledged and not there


@dataclass(frozen=True, slots=True)
class Outcome:
    clients: dict[str, Client]
    watchers: dict[str, Watcher]
    mutations: Mutations
    lists: dict[str, int]  # LISTs that a watch's end has cost, by client
    watches: dict[str, int]  # WATCHes that masters were asked for
    lease_gap: float
    leaders_lost: int
    managers_ended: int
    deaf: int
    trouble: float  # seconds: the longest time in which there were always calls that failed or waited, or events late
    recovered: bool = True  # older results do not say

    def errors(self, *operations: str) -> int:
        return sum(client.errors.get(operation, 0) for client in self.clients.values() for operation in operations)


def restore(plain: dict[str, Any]) -> Outcome:
    """An outcome that was written as JSON, from dataclasses.asdict."""
    parts = {
        "clients": {name: Client(**one) for name, one in plain["clients"].items()},
        "watchers": {name: Watcher(**one) for name, one in plain["watchers"].items()},
        "mutations": Mutations(**plain["mutations"]),
    }
    return Outcome(**{**plain, **parts})


def judge(evidence: Evidence) -> Outcome:
    calls = [call for call in evidence.calls if call.ended >= evidence.fault]
    late = _delays(evidence)
    return Outcome(
        clients={name: _client([call for call in calls if call.client == name]) for name in _names(calls)},
        watchers={name: _watcher(name, evidence, late) for name in _names(evidence.events)},
        mutations=_mutations(evidence),
        lists=_count(_relists(evidence)),
        watches=_count(one for one in _requests(evidence) if one.verb == "watch"),
        lease_gap=round(max((_gap(evidence, lease) for lease in LEASES), default=0.0), 2),
        leaders_lost=max(evidence.leaders_lost, evidence.managers_ended),  # the next one has to wait for its turn
        managers_ended=evidence.managers_ended,
        deaf=evidence.deaf,
        trouble=round(_longest(_troubles(calls, late), evidence.fault), 2),
        recovered=evidence.recovered,
    )


def _names(entries: Sequence[Call] | Sequence[Event]) -> list[str]:
    return sorted({entry.client for entry in entries})


def _client(calls: list[Call]) -> Client:
    short = [call for call in calls if call.operation not in LONG]
    failed = [call for call in calls if call.error]
    return Client(
        calls=len(short),
        errors=dict(Counter(call.operation for call in failed)),
        slow=sum(1 for call in short if _took(call) > SLOW),
        worst=round(max((_took(call) for call in short), default=0.0), 2),
        first_error=failed[0].error if failed else "",
    )


def _took(call: Call) -> float:
    return call.ended - call.began


def _delays(evidence: Evidence) -> dict[str, list[tuple[float, float]]]:
    """By watcher: (when it was seen, how long after its acknowledgement) for every event after the fault."""
    acknowledged = {call.version: call.ended for call in evidence.calls if call.operation in WRITES and call.version}
    delays: dict[str, list[tuple[float, float]]] = {name: [] for name in _names(evidence.events)}
    seen: set[tuple[str, int]] = set()
    for event in evidence.events:
        if event.at >= evidence.fault and event.version in acknowledged and (event.client, event.version) not in seen:
            delays[event.client].append((event.at, event.at - acknowledged[event.version]))
        seen.add((event.client, event.version))
    return delays


def _troubles(calls: Iterable[Call], late: Mapping[str, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """From when to when somebody waited. A watch that ends is an instant: until then all was well."""
    bad = [call for call in calls if call.error or (call.operation not in LONG and _took(call) > SLOW)]
    waits = [(call.ended if call.operation in LONG else call.began, call.ended) for call in bad]
    return waits + [(at - delay, at) for delays in late.values() for at, delay in delays if delay > SLOW]


def _longest(troubles: list[tuple[float, float]], fault: float) -> float:
    """Of the times that are left when all that overlap or almost touch are taken together."""
    longest, start, end = 0.0, fault, -inf
    for began, ended in sorted(troubles):
        if began > end + PEACE:
            start = max(began, fault)
        end = max(end, ended)
        longest = max(longest, end - start)
    return longest


def _watcher(name: str, evidence: Evidence, late: Mapping[str, list[tuple[float, float]]]) -> Watcher:
    seen = [event.version for event in evidence.events if event.client == name]
    counted = Counter(seen)
    truth = {one.version for one in evidence.stored}
    ends = [call for call in evidence.calls if call.client == name and call.operation == "watch" and call.error]
    return Watcher(
        events=len(seen),
        missed=len(truth - counted.keys()),
        doubled=sum(count - 1 for count in counted.values()),
        backwards=sum(1 for before, after in pairwise(seen) if after < before),
        ended=sum(1 for call in ends if call.ended >= evidence.fault),
        worst_delay=round(max((delay for _, delay in late.get(name, [])), default=0.0), 2),
    )


def _mutations(evidence: Evidence) -> Mutations:
    sent = [call for call in evidence.calls if call.operation in WRITES]
    failed = [call for call in sent if call.error]
    made = evidence.executed
    return Mutations(
        sent=len(sent),
        acknowledged=len(sent) - len(failed),
        failed_executed=sum(1 for call in failed if made.get(call.key, 0)),
        failed=sum(1 for call in failed if not made.get(call.key, 0)),
        doubled=sum(1 for call in sent if made.get(call.key, 0) > 1),
        lost=sum(1 for call in sent if not call.error and not made.get(call.key, 0)),
    )


def _requests(evidence: Evidence) -> list[Asked]:
    """What our clients asked for after the fault, each once."""
    return [one for one in evidence.asked if one.client and one.code == 0 and one.at >= evidence.fault]


def _relists(evidence: Evidence) -> list[Asked]:
    """LISTs that nobody meant to make: of the watched namespace, and any of a controller's."""
    lists = [one for one in _requests(evidence) if one.verb == "list"]
    return [one for one in lists if one.namespace == evidence.watched or one.client in CONTROLLERS]


def _count(asked: Iterable[Asked]) -> dict[str, int]:
    return dict(sorted(Counter(one.client for one in asked).items()))


def _gap(evidence: Evidence, lease: str) -> float:
    """The longest time without a renewal. A leader gives up after 10 s."""
    times = [one.at for one in renewals(list(evidence.asked), lease)]
    moments = [*times, evidence.end] if times else []
    gaps = [after - before for before, after in pairwise(moments)]
    return max(gaps, default=evidence.end - evidence.fault)

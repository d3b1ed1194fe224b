"""Renewals of leases, as they are seen on their way: how near each leader and node is to losing its place.

A leader renews its lease every 2 s and steps down after 10 s without success; a kubelet renews its node's every 10 s
and the node is NotReady after 40 s. So the time since the last renewal that was answered with success says, before
anything breaks, whom the balancer or its masters are about to fail.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

MAX_NAMES = 10_000  # leases that are remembered: 5,000 nodes is what Kubernetes supports
SHOWN = 20  # leaders first, then those that have waited longest; and the first of each group in any case
BOUNDS = (1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 40.0)  # seconds; leaders have 10, nodes 40
NODES = "kube-node-lease/"
# Of the control plane, which has 10 s. Others in kube-system are add-ons that may take their time, as CSI drivers do.
LEADERS = tuple(
    f"kube-system/{name}" for name in ("kube-controller-manager", "kube-scheduler", "cloud-controller-manager")
)

FORGOTTEN_AFTER = 10  # times its last gap: a node that was deleted is nobody to wait for ...
LEAST_MEMORY, MOST_MEMORY = 300.0, 3600.0  # ... but an alert has to see one that is stuck, for so many seconds


@dataclass(slots=True)
class LeaseView:
    """One lease. Seconds."""

    name: str  # NAMESPACE/NAME
    since: float  # the last renewal
    gap: float  # between the last two; 0 if only one was seen
    longest: float  # gap ever


@dataclass(slots=True)
class LeaseReport:
    """What a worker says of leases: who waits, and the gaps of all as a histogram."""

    shown: list[LeaseView] = field(default_factory=list)
    known: int = 0
    renewals: int = 0
    gap_seconds: float = 0.0  # the sum of all gaps
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))  # gaps by BOUNDS, not cumulative

    def add(self, other: LeaseReport) -> None:
        """Take in another worker's report."""
        self.known += other.known
        self.renewals += other.renewals
        self.gap_seconds += other.gap_seconds
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        if not self.shown:
            self.shown = list(other.shown)
            return
        views = {view.name: view for view in self.shown}
        for view in other.shown:
            mine = views.get(view.name)
            views[view.name] = view if mine is None else _one(mine, view)
            self.known -= mine is not None
        self.shown = list(views.values())

    def trim(self) -> None:
        """Show no more than a few, and of each group at least who has waited longest.

        That comes last: who has left a worker is long in waiting there, and hides behind its newer self elsewhere.
        """
        ordered = sorted(self.shown, key=_order)
        firsts = {group_of(view.name): view for view in reversed(ordered)}
        self.shown = ordered[:SHOWN] + [view for view in ordered[SHOWN:] if view is firsts[group_of(view.name)]]

    def __reduce__(self) -> tuple[Any, ...]:
        """As columns: ten thousand objects would cost a worker a fiftieth of a second each time it is asked."""
        columns = [[getattr(view, name) for view in self.shown] for name in _COLUMNS]
        times = tuple(array("d", column) for column in columns[1:])
        return _from_columns, (columns[0], times, self.known, self.renewals, self.gap_seconds, self.buckets)

    def waits(self) -> dict[str, float]:
        """Seconds since the last renewal of the lease that has waited longest, by group."""
        waits: dict[str, float] = {}
        for view in self.shown:
            group = group_of(view.name)
            waits[group] = max(view.since, waits.get(group, 0.0))
        return waits

    def leaders(self) -> dict[str, float]:
        """The same of each leader: one that has moved to another balancer is to be looked for there by its name."""
        return {view.name: view.since for view in self.shown if view.name in LEADERS}


class Leases:
    """One worker's memory of renewals."""

    __slots__ = ("_buckets", "_gap_seconds", "_known", "_renewals")

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float, float]] = {}  # last renewal, last gap, longest gap
        self._renewals = 0
        self._gap_seconds = 0.0
        self._buckets = [0] * (len(BOUNDS) + 1)

    def renewed(self, name: str, now: float) -> None:
        """A renewal was answered with success. A name too many pushes out the one that was renewed longest ago."""
        self._renewals += 1
        before = self._known.pop(name, None)
        if before is None:
            if len(self._known) >= MAX_NAMES:
                del self._known[next(iter(self._known))]
            self._known[name] = now, 0.0, 0.0
            return
        last, last_gap, longest = before
        gap = now - last
        if gap > _memory(last_gap):  # as report() would have it
            self._known[name] = now, 0.0, 0.0
            return
        self._known[name] = now, gap, max(gap, longest)
        self._gap_seconds += gap
        self._buckets[sum(gap > bound for bound in BOUNDS)] += 1

    def report(self, now: float) -> LeaseReport:
        """All that are remembered, in no order. Who has not been renewed for long is forgotten."""
        long_ago = now - LEAST_MEMORY
        gone = [
            name for name, (last, gap, _longest) in self._known.items() if last < long_ago and now - last > _memory(gap)
        ]
        for name in gone:
            del self._known[name]
        views = [LeaseView(name, now - last, gap, longest) for name, (last, gap, longest) in self._known.items()]
        return LeaseReport(views, len(views), self._renewals, self._gap_seconds, list(self._buckets))


_COLUMNS = ("name", "since", "gap", "longest")


def _from_columns(names: list[str], times: tuple[array[float], ...], *others: Any) -> LeaseReport:
    return LeaseReport(list(map(LeaseView, names, *times)), *others)


def group_of(name: str) -> str:
    """nodes, leaders, or others: who waits for how long differs."""
    if name.startswith(NODES):
        return "nodes"
    return "leaders" if name in LEADERS else "others"


def _memory(gap: float) -> float:
    return min(max(FORGOTTEN_AFTER * gap, LEAST_MEMORY), MOST_MEMORY)


def _one(mine: LeaseView, theirs: LeaseView) -> LeaseView:
    """One lease at two workers: its client has connected anew, or has connections to both.

    The last gap is at most the time between the renewals that they saw last.
    """
    last, before = (mine, theirs) if mine.since <= theirs.since else (theirs, mine)
    between = before.since - last.since
    gap = min(last.gap, between) if last.gap else between
    return LeaseView(last.name, last.since, gap, max(mine.longest, theirs.longest, gap))


_ORDER = ("leaders", "others", "nodes")


def _order(view: LeaseView) -> tuple[int, float]:
    return _ORDER.index(group_of(view.name)), -view.since

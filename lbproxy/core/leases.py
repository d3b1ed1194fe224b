"""Renewals of leases, as they are seen on their way: how near each leader and node is to losing its place.

A leader renews its lease every 2 s and steps down after 10 s without success; a kubelet renews its node's every 10 s
and the node is NotReady after 40 s. So the time since the last renewal that was answered with success says, before
anything breaks, whom the balancer or its masters are about to fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_NAMES = 10_000  # leases that are remembered: 5,000 nodes is what Kubernetes supports
SHOWN = 20  # of one worker's in its report: leaders first, then those that have waited longest
BOUNDS = (1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 40.0)  # seconds; leaders have 10, nodes 40
NODES = "kube-node-lease/"


@dataclass(slots=True)
class LeaseView:
    """One lease. Seconds."""

    name: str  # NAMESPACE/NAME
    since: float  # the last renewal
    gap: float  # between the last two; 0 if only one was seen
    longest: float  # gap ever


@dataclass(slots=True)
class LeaseReport:
    """What a worker says of leases: a few of them, and the gaps of all as a histogram."""

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
        views = {view.name: view for view in self.shown}
        for view in other.shown:
            mine = views.get(view.name)
            if mine is None or view.since < mine.since:  # its client has changed workers
                views[view.name] = view
        self.shown = sorted(views.values(), key=_order)[:SHOWN]


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
        last, _gap, longest = before
        gap = now - last
        self._known[name] = now, gap, max(gap, longest)
        self._gap_seconds += gap
        self._buckets[sum(gap > bound for bound in BOUNDS)] += 1

    def report(self, now: float) -> LeaseReport:
        views = [LeaseView(name, now - last, gap, longest) for name, (last, gap, longest) in self._known.items()]
        shown = sorted(views, key=_order)[:SHOWN]
        return LeaseReport(shown, len(views), self._renewals, self._gap_seconds, list(self._buckets))


def _order(view: LeaseView) -> tuple[bool, float]:
    return view.name.startswith(NODES), -view.since

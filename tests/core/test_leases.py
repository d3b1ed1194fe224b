"""Gaps between renewals, as the balancer sees them."""

from __future__ import annotations

import pytest

from lbproxy.core.leases import BOUNDS, MAX_NAMES, NODES, SHOWN, LeaseReport, Leases


def test_gaps() -> None:
    leases = Leases()
    for now in (0.0, 2.0, 4.0, 11.0, 13.0):
        leases.renewed("kube-system/scheduler", now)
    report = leases.report(14.0)
    (shown,) = report.shown
    assert (shown.name, shown.since, shown.gap, shown.longest) == ("kube-system/scheduler", 1.0, 2.0, 7.0)
    assert (report.known, report.renewals, report.gap_seconds) == (1, 5, 13.0)
    assert dict(zip(BOUNDS, report.buckets, strict=False))[2.5] == 3
    assert sum(report.buckets) == 4


def test_leaders_come_first_and_then_who_has_waited_longest() -> None:
    leases = Leases()
    for number in range(100):
        leases.renewed(f"{NODES}node-{number}", float(number))
    leases.renewed("kube-system/kube-scheduler", 100.0)
    names = [view.name for view in leases.report(100.0).shown]
    assert names[:3] == ["kube-system/kube-scheduler", f"{NODES}node-0", f"{NODES}node-1"]
    assert len(names) == SHOWN


def test_what_is_remembered_is_bounded() -> None:
    leases = Leases()
    for number in range(MAX_NAMES + 5):
        leases.renewed(f"a/{number}", float(number))
    report = leases.report(0.0)
    assert report.known == MAX_NAMES
    leases.renewed("a/4", 1e6)  # it was forgotten: no gap is made up
    assert leases.report(1e6).gap_seconds == 0


def test_workers_are_added_up() -> None:
    one, other = Leases(), Leases()
    one.renewed("a/x", 0.0)
    one.renewed("a/x", 2.0)
    other.renewed("a/x", 10.0)  # its client has come to this worker
    other.renewed("a/y", 10.0)
    total = LeaseReport()
    total.add(one.report(11.0))
    total.add(other.report(11.0))
    assert {view.name: view.since for view in total.shown} == {"a/x": pytest.approx(1.0), "a/y": pytest.approx(1.0)}
    assert (total.renewals, total.gap_seconds) == (4, 2.0)

"""Gaps between renewals, as the balancer sees them."""

from __future__ import annotations

import pickle

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
    leases.renewed("cert-manager/controller", 100.0)
    leases.renewed("kube-system/kube-scheduler", 100.0)
    report = leases.report(100.0)
    report.trim()
    names = [view.name for view in report.shown]
    assert names[:3] == ["kube-system/kube-scheduler", "cert-manager/controller", f"{NODES}node-0"]
    assert len(names) == SHOWN
    assert report.known == 102
    assert report.waits() == {"leaders": 0.0, "others": 0.0, "nodes": 100.0}


def test_of_each_group_one_is_shown() -> None:
    leases = Leases()
    for number in range(100):
        leases.renewed(f"kube-system/add-on-{number}", float(number))
    leases.renewed(f"{NODES}new", 99.0)
    leases.renewed(f"{NODES}old", 50.0)
    report = leases.report(100.0)
    report.trim()
    assert [view.name for view in report.shown][SHOWN:] == [f"{NODES}old"]
    assert report.waits() == {"others": 100.0, "nodes": 50.0}


def test_leaders_are_those_of_the_control_plane() -> None:
    leases = Leases()
    for second, name in enumerate(("kube-controller-manager", "kube-scheduler", "snapshot-controller-leader")):
        leases.renewed(f"kube-system/{name}", float(second))
    report = leases.report(5.0)
    assert report.waits() == {"leaders": 5.0, "others": 3.0}
    assert report.leaders() == {"kube-system/kube-controller-manager": 5.0, "kube-system/kube-scheduler": 4.0}


@pytest.mark.parametrize(("gap", "memory"), [(2.0, 300.0), (10.0, 300.0), (60.0, 600.0), (299.0, 2990.0)])
def test_who_is_gone_is_forgotten(gap: float, memory: float) -> None:
    """A node that was deleted waits for nobody; a leader that is stuck is seen for some minutes."""
    leases = Leases()
    leases.renewed(f"{NODES}gone", 0.0)
    leases.renewed(f"{NODES}gone", gap)
    assert leases.report(gap + memory).known == 1
    report = leases.report(gap + memory + 1)
    assert (report.known, report.shown, report.renewals) == (0, [], 2)
    leases.renewed(f"{NODES}gone", gap + memory + 2)  # another one of that name: no gap is made up
    assert leases.report(gap + memory + 2).gap_seconds == gap


def test_a_gap_is_none_after_more_than_is_remembered() -> None:
    """Whether anybody has asked for a report meanwhile or not."""
    leases = Leases()
    leases.renewed("a/x", 0.0)
    leases.renewed("a/x", 301.0)
    assert leases.report(301.0).gap_seconds == 0


def test_what_is_remembered_is_bounded() -> None:
    leases = Leases()
    for number in range(MAX_NAMES + 5):
        leases.renewed(f"a/{number}", float(number))
    report = leases.report(0.0)
    assert report.known == MAX_NAMES
    leases.renewed("a/4", 1e6)  # it was forgotten: no gap is made up
    assert leases.report(1e6).gap_seconds == 0


def added_up(*reports: LeaseReport) -> LeaseReport:
    total = LeaseReport()
    for report in reports:
        total.add(report)
    total.trim()
    return total


def test_workers_are_added_up() -> None:
    one, other = Leases(), Leases()
    one.renewed("a/x", 0.0)
    one.renewed("a/x", 2.0)
    other.renewed("a/x", 10.0)  # its client has come to this worker
    other.renewed("a/y", 10.0)
    total = added_up(one.report(11.0), other.report(11.0))
    assert {view.name: view.since for view in total.shown} == {"a/x": pytest.approx(1.0), "a/y": pytest.approx(1.0)}
    assert (total.known, total.renewals, total.gap_seconds) == (2, 4, 2.0)


def test_who_has_changed_workers_is_not_waiting() -> None:
    """At the one that it has left it is among the longest waiting; at the other one it is one of many."""
    left, come = Leases(), Leases()
    for number in range(30):
        left.renewed(f"{NODES}{number}", 0.0)
        come.renewed(f"{NODES}{number}", 95.0 + number / 10)
    for reports in ((left, come), (come, left)):
        total = added_up(*(one.report(100.0) for one in reports))
        assert total.known == 30
        assert total.waits() == {"nodes": pytest.approx(5.0)}


def test_the_gap_across_a_change_of_workers() -> None:
    left, come = Leases(), Leases()
    for now in (0.0, 2.0, 4.0):
        left.renewed("kube-system/x", now)
    come.renewed("kube-system/x", 13.0)
    (view,) = added_up(left.report(14.0), come.report(14.0)).shown
    assert (view.since, view.gap, view.longest) == (1.0, 9.0, 9.0)


def test_a_client_with_connections_to_two_workers() -> None:
    one, other = Leases(), Leases()
    for now in (0.0, 20.0):
        one.renewed(f"{NODES}x", now)
        other.renewed(f"{NODES}x", now + 10.0)
    (view,) = added_up(one.report(31.0), other.report(31.0)).shown
    assert (view.since, view.gap) == (1.0, 10.0)


def test_a_report_is_the_same_at_the_other_end() -> None:
    leases = Leases()
    for second in (0.0, 2.0, 7.0):
        for name in ("kube-system/a", "kube-node-lease/b"):
            leases.renewed(name, second)
    report = leases.report(8.0)
    assert pickle.loads(pickle.dumps(report)) == report
    assert pickle.loads(pickle.dumps(LeaseReport())) == LeaseReport()

"""The counting itself: a result that says "nothing missed" must be able to say the opposite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.cluster.chaos import audit
from tests.cluster.chaos.audit import Asked
from tests.cluster.chaos.history import Stored
from tests.cluster.chaos.journal import Call, Event, Journal, read
from tests.cluster.chaos.outcome import Evidence, Watcher, judge

FAULT = 100.0


def call(operation: str, ended: float, error: str = "", *, key: str = "", version: int = 0, took: float = 0.1) -> Call:
    return Call("kr8s", operation, ended - took, ended, error, key, version)


def event(version: int, at: float = 101.0) -> Event:
    return Event("kr8s", at, "ADDED", f"w-{version}", version)


def asked(verb: str, client: str, *, namespace: str = "watched", at: float = 101.0, code: int = 0) -> Asked:
    return Asked(at, 0, client, verb, "configmaps", namespace, "", code)


def lease(at: float, code: int = 200) -> Asked:
    return Asked(at, 0, "scheduler", "update", "leases", "kube-system", "kube-scheduler", code)


CALM = Evidence(
    calls=[call("create", 99.0, key="a", version=5), call("create", 101.0, key="b", version=6), call("list", 102.0)],
    events=[event(5, 99.1), event(6)],
    stored=[Stored(5, "w-5"), Stored(6, "w-6")],
    executed={"a": 1, "b": 1},
    asked=[asked("watch", "kr8s", at=99.0), lease(98.0), lease(100.0), lease(102.0)],
    fault=FAULT,
    end=103.0,
    watched="watched",
    leaders_lost=0,
    managers_ended=0,
    deaf=0,
)


def watcher(evidence: Evidence) -> Watcher:
    return judge(evidence).watchers["kr8s"]


def test_nothing_went_wrong() -> None:
    outcome = judge(CALM)
    assert outcome.errors("list", "create", "watch") == 0
    assert watcher(CALM) == Watcher(2, 0, 0, 0, 0, worst_delay=0.0)
    assert (outcome.mutations.sent, outcome.mutations.acknowledged) == (2, 2)
    assert outcome.trouble == 0.0
    assert outcome.lists == outcome.watches == {}


def test_errors_count_from_the_fault_on() -> None:
    early, late = call("list", 99.5, "refused"), call("list", 104.0, "reset")
    outcome = judge(replace(CALM, calls=[*CALM.calls, early, late]))
    assert outcome.clients["kr8s"].errors == {"list": 1}
    assert outcome.clients["kr8s"].first_error == "reset"


def test_a_slow_answer_counts_as_trouble() -> None:
    outcome = judge(replace(CALM, calls=[*CALM.calls, call("get", 106.0, took=4.0)]))
    assert (outcome.clients["kr8s"].slow, outcome.clients["kr8s"].worst) == (1, 4.0)
    assert outcome.trouble == 4.0


def test_trouble_lasts_until_there_is_peace() -> None:
    failures = [call("list", at, "refused") for at in (101.0, 102.5, 104.0, 110.0, 111.0)]
    assert judge(replace(CALM, calls=[*CALM.calls, *failures])).trouble == 3.1  # from 100.9 to 104.0
    before = call("list", 101.0, "reset", took=30.0)  # it was under way when the fault came
    assert judge(replace(CALM, calls=[*CALM.calls, before])).trouble == 1.0


def test_a_long_watch_is_not_slow_and_its_end_is_an_error_only_if_noticed() -> None:
    clean, cut = call("watch", 101.0, took=50.0), call("watch", 103.0, "reset", took=50.0)
    assert judge(replace(CALM, calls=[*CALM.calls, clean])).trouble == 0.0
    assert watcher(replace(CALM, calls=[*CALM.calls, clean, cut])).ended == 1


def test_events_are_compared_with_what_was_stored() -> None:
    assert watcher(replace(CALM, events=[event(6)])).missed == 1
    assert watcher(replace(CALM, events=[event(5), event(6), event(6)])).doubled == 1
    assert watcher(replace(CALM, events=[event(6), event(5)])).backwards == 1


def test_a_late_event_is_trouble() -> None:
    outcome = judge(replace(CALM, events=[event(5, 99.1), event(6, 111.0)]))
    assert outcome.watchers["kr8s"].worst_delay == 10.0
    assert outcome.trouble == 10.0


def test_mutations() -> None:
    failed = [call("create", 101.0, "502", key="c"), call("create", 101.5, "502", key="d")]
    found = judge(replace(CALM, calls=[*CALM.calls, *failed], executed={"a": 2, "c": 1})).mutations
    assert (found.sent, found.acknowledged, found.failed_executed, found.failed) == (4, 2, 1, 1)
    assert (found.doubled, found.lost) == (1, 1)


def test_lists_that_a_watch_cost() -> None:
    requests = [
        asked("list", "kr8s"),
        asked("list", "kr8s", code=200),  # the same one, answered
        asked("list", "kr8s", namespace="quiet"),  # a reader's
        asked("list", "kr8s", at=99.0),  # before the fault
        asked("list", "controller-manager", namespace=""),
        asked("list", ""),  # nobody of ours
        asked("watch", "kr8s"),
    ]
    outcome = judge(replace(CALM, asked=requests))
    assert outcome.lists == {"controller-manager": 1, "kr8s": 1}
    assert outcome.watches == {"kr8s": 1}


def test_the_longest_gap_between_renewals() -> None:
    gaps = [lease(100.0), lease(101.0, code=0), lease(104.0, code=500), lease(107.0), lease(109.0)]
    assert judge(replace(CALM, asked=gaps, end=110.0)).lease_gap == 10.0  # the other lease was not renewed at all
    both = gaps + [replace(one, name="kube-controller-manager") for one in gaps]
    assert judge(replace(CALM, asked=both, end=110.0)).lease_gap == 7.0
    assert judge(replace(CALM, asked=both, end=120.0)).lease_gap == 11.0


def test_a_journal_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    journal = Journal(path)
    assert journal.call("kr8s", "create", lambda: 7, "key")
    assert not journal.call("kr8s", "list", lambda: int("no number"))
    journal.finish()
    with path.open("a") as file:
        file.write('{"Call": {"client"')  # still being written
    calls, events = read([path, tmp_path / "missing"])
    assert [(one.operation, one.version, one.key, one.error[:10]) for one in calls] == [
        ("create", 7, "key", ""),
        ("list", 0, "", "ValueError"),
    ]
    assert events == []


def test_an_audit_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    request = {
        "stage": "RequestReceived",
        "verb": "watch",
        "userAgent": "kubectl/v1.20.2 (linux/amd64)",
        "objectRef": {"resource": "configmaps", "namespace": "watched"},
        "stageTimestamp": "2026-01-02T03:04:05.678901Z",
    }
    answered = {**request, "stage": "ResponseComplete", "responseStatus": {"code": 200}}
    path.write_text("".join(json.dumps(one) + "\n" for one in (request, answered)) + '{"stage":')
    found = audit.read([path, tmp_path / "missing"], 0.0, 2e9)
    assert [(one.client, one.verb, one.namespace, one.code) for one in found] == [
        ("kubectl-1.20", "watch", "watched", 0),
        ("kubectl-1.20", "watch", "watched", 200),
    ]
    assert found[0].at == 1767323045.678901


def test_the_most_at_once() -> None:
    """Watches and lists, not their answers, and nothing else."""
    herd = [asked("watch", "herd", at=at) for at in (1.0, 1.5, 1.9, 2.1, 4.0)]
    noise = [asked("watch", "herd", at=2.0, code=200), asked("create", "kr8s", at=2.0)]
    entries = sorted([*herd, asked("list", "kr8s", at=1.6), *noise], key=lambda one: one.at)
    assert audit.most_at_once(entries, 1.0) == 4
    assert audit.most_at_once([], 1.0) == 0

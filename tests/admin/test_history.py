"""What is remembered for the dashboard: the last minutes, the last events, and what a page asks of them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from lbproxy.admin import totals
from lbproxy.admin.events import KEPT, LONGEST, RecentEvents
from lbproxy.admin.history import History
from lbproxy.admin.log import EventLog, Output
from lbproxy.admin.overview import overview
from lbproxy.control.configfile import loads
from lbproxy.core.health import Health
from tests.admin.test_admin import Fixed

SPAN = 5


@pytest.fixture
def view() -> Fixed:
    fixed = Fixed()
    fixed.history = History(SPAN)
    return fixed


def take(view: Fixed, now: float, tcp: int = 0, http: int = 0, first: int = 0) -> None:
    """A second later: so many connections, requests, and picks of the first master in all."""
    view.stats.listeners[0].accepted = tcp
    view.stats.listeners[1].requests = http
    view.stats.pools["masters"][0].total = first
    view.history.sample(now, view, view.stats)


def backend(answer: dict[str, Any], index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = answer["pools"][0]["backends"][index]
    return found


def test_rates_are_differences_by_the_second(view: Fixed) -> None:
    view.stats.listeners[0].active = 7
    view.stats.pools["masters"][0].active = 5
    take(view, 100.0, tcp=50, http=1000, first=3)
    take(view, 101.0, tcp=60, http=1000, first=4)
    take(view, 103.0, tcp=65, http=1400, first=4)
    answer = view.history.since(0, view)
    assert (answer["first"], answer["last"]) == (1, 3)
    assert answer["listeners"] == [
        {"name": "api", "rate": [None, 10.0, 2.5], "active": [7.0, 7.0, 7.0]},
        {"name": "plain", "rate": [None, 0.0, 200.0], "active": [0.0, 0.0, 0.0]},
    ]
    assert backend(answer)["rate"] == [None, 1.0, 0.0]
    assert backend(answer)["active"] == [5.0, 5.0, 5.0]
    assert backend(answer)["latency_ms"] == [10.0, 10.0, 10.0]


def test_only_what_is_new_is_told_and_only_so_much_is_kept(view: Fixed) -> None:
    for second in range(1, 13):
        take(view, float(second), first=second * second)
    rates = [float(2 * second - 1) for second in range(8, 13)]
    assert backend(view.history.since(0, view))["rate"] == rates
    assert view.history.since(0, view)["first"] == 8
    assert backend(view.history.since(10, view))["rate"] == rates[-2:]
    assert backend(view.history.since(12, view))["rate"] == []
    assert view.history.since(12, view)["first"] == 13
    for stranger in (3, 13, 10**8):  # too old, and of a balancer that ran before this one
        assert backend(view.history.since(stranger, view))["rate"] == rates


def test_a_counter_that_a_dead_worker_took_along_is_no_negative_rate(view: Fixed) -> None:
    take(view, 1.0, tcp=50)
    take(view, 2.0, tcp=40)
    assert view.history.since(0, view)["listeners"][0]["rate"] == [None, 0.0]


def test_a_reload_keeps_what_stays_forgets_what_goes_and_begins_what_is_new(view: Fixed) -> None:
    take(view, 1.0, first=1)
    take(view, 2.0, first=2)
    old = view.config
    view.config = loads(
        """
listeners:
  - {name: api, bind: "127.0.0.1:6443", mode: tcp, pool: masters}
pools:
  masters: {backends: ["10.0.1.12:6443", "10.0.1.10:6443"]}
"""
    ).config
    view.healths = {"masters": [Health.UP, Health.UP]}
    view.stats = totals.reshape(view.stats, old, view.config)
    before = view.history.since(0, view)  # not sampled yet in this shape
    assert "rate" not in backend(before, 0)
    assert backend(before, 1)["rate"] == [None, 1.0]
    view.stats.pools["masters"][1].total = 5
    view.history.sample(3.0, view, view.stats)
    after = view.history.since(0, view)
    assert backend(after, 0)["rate"] == [None, None, None]
    assert backend(after, 1)["rate"] == [None, 1.0, 3.0]
    assert [one["name"] for one in after["listeners"]] == ["api"]


def test_events_are_numbered_bounded_and_told_once() -> None:
    events = RecentEvents()
    for number in range(1, KEPT + 11):
        events.note("2026-01-01T00:00:00.000Z", "info", "health", f"event {number}")
    events.note("2026-01-01T00:00:00.000Z", "debug", "chatter", "not kept")
    assert [event["number"] for event in events.since(0)] == list(range(11, KEPT + 11))
    assert [event["msg"] for event in events.since(KEPT + 9)] == [f"event {KEPT + 10}"]
    assert events.since(KEPT + 10) == []
    assert len(events.since(10**8)) == KEPT
    events.note("2026-01-01T00:00:00.000Z", "error", "reload_failed", "x" * 10_000)
    assert len(events.since(KEPT + 10)[0]["msg"]) == LONGEST


def test_the_page_has_events_that_the_log_is_not_to_have() -> None:
    reader, writer = os.pipe()
    log = EventLog(Output(writer), "error")
    log.info("health", "backend 10.0.1.10:6443 is up", backend="10.0.1.10:6443")
    os.close(writer)
    with open(reader, "rb") as written:
        assert written.read() == b""
    assert [(one["level"], one["msg"]) for one in log.recent.since(0)] == [("info", "backend 10.0.1.10:6443 is up")]


def test_the_overview_is_the_status_and_what_is_new(view: Fixed) -> None:
    take(view, 1.0)
    take(view, 2.0)
    view.events.note("2026-01-01T00:00:00.000Z", "info", "ready", "lbproxy listens")
    page = overview(view, 1, 0)
    assert {"version", "config", "workers", "listeners", "pools", "now", "started_at"} <= set(page)
    assert page["pools"][0]["backends"][1]["health"] == "down"
    assert len(page["history"]["listeners"][0]["rate"]) == 1
    assert [event["msg"] for event in page["events"]] == ["lbproxy listens"]
    assert overview(view, 2, 1)["events"] == []


def test_a_check_that_found_nobody_has_no_time(view: Fixed) -> None:
    take(view, 1.0)
    views = view.pools()
    views["masters"][0] = replace(views["masters"][0], last=None)
    view.pools = lambda: views  # type: ignore[method-assign]
    take(view, 2.0)
    assert backend(view.history.since(0, view))["latency_ms"] == [10.0, None]

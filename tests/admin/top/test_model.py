"""From answers to rates and changes."""

from __future__ import annotations

from typing import Any

import pytest

from lbproxy.admin.top.model import Change, History, printable
from tests.admin.top.answers import NOW, answer, backend, listener, pool, stamp


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    history = History()
    known = history.take(NOW, before).changes
    found = history.take(NOW + 1, after).changes
    return list(found[: len(found) - len(known)])


def test_rates_are_differences_over_the_last_seconds() -> None:
    history = History()
    for second in range(6):
        work = 10 * second + 100 * (second == 5)
        look = history.take(
            NOW + second,
            answer(
                pool("apiservers", backend(total=work, bytes_out=1000 * second, failed=second)),
                listeners=[listener(accepted=second, requests=work)],
                uptime_s=100.0 + second,
            ),
        )
    (one,) = look.backends
    assert (one.rate, one.rate_out, one.rate_in, one.fail_rate) == (130 / 3, 1000, 0, 1)
    assert (look.listeners[0].accept_rate, look.listeners[0].request_rate) == (1, 130 / 3)
    assert look.trend == (10, 10, 10, 10, 110)


def test_nothing_is_known_at_first() -> None:
    look = History().take(NOW, answer())
    assert look.backends[0].rate is None
    assert look.listeners[0].accept_rate is None
    assert look.trend == ()


def test_connections_are_what_a_tcp_listener_does() -> None:
    history = History()
    history.take(NOW, answer(listeners=[listener(mode="tcp", accepted=5)]))
    look = history.take(NOW + 1, answer(listeners=[listener(mode="tcp", accepted=9)]))
    assert (look.listeners[0].request_rate, look.trend) == (None, (4,))


def test_a_restart_is_no_negative_rate() -> None:
    history = History()
    history.take(NOW, answer(pool("p", backend(total=1000)), uptime_s=50.0))
    look = history.take(NOW + 1, answer(pool("p", backend(total=1)), uptime_s=0.5))
    assert look.backends[0].rate is None
    assert look.changes[0] == Change(NOW + 1, "lbproxy was started anew", "warn")
    look = history.take(NOW + 2, answer(pool("p", backend(total=0)), uptime_s=1.5))
    assert look.backends[0].rate == 0


def test_what_happened_before_is_told_newest_first() -> None:
    look = History().take(
        NOW,
        answer(pool("p", backend("a:1", "down", reason="refused", since=stamp(NOW - 5)), backend("b:1", "unknown"))),
    )
    assert [(change.at, change.text) for change in look.changes] == [
        (NOW - 5, "a:1 of p down: refused"),
        (NOW - 7200, "configuration loaded"),
    ]


A, B = backend("a:1"), backend("b:1")


@pytest.mark.parametrize(
    ("before", "after", "text", "kind"),
    [
        (
            answer(pool("p", A)),
            answer(pool("p", backend("a:1", "not_ready", since=stamp(NOW + 1), reason="GET /readyz answered 500"))),
            "a:1 of p not ready: GET /readyz answered 500",
            "warn",
        ),
        (answer(pool("p", A)), answer(pool("p", A, B)), "b:1 of p is new", "note"),
        (answer(pool("p", A, B)), answer(pool("p", A)), "b:1 of p was removed", "note"),
        (answer(pool("p", A)), answer(pool("p", backend("a:1", state="drain"))), "a:1 of p set to drain", "warn"),
        (
            answer(pool("p", backend("a:1", state="maint"))),
            answer(pool("p", A)),
            "a:1 of p set to ready",
            "good",
        ),
        (answer(pool("p", A)), answer(pool("p", backend("a:1", weight=5))), "a:1 of p has weight 5, had 1", "note"),
        (
            answer(pool("p", A)),
            answer(pool("p", A, fail_open=True)),
            "p fails open: no backend is ready",
            "bad",
        ),
        (answer(pool("p", A, fail_open=True)), answer(pool("p", A)), "p fails open no more", "good"),
        (
            answer(),
            answer(workers=[{"pid": 12, "ready": True, "connections": 0}]),
            "workers: new 12, gone 11",
            "warn",
        ),
        (
            answer(),
            answer(config=answer()["config"] | {"error": "lb.yaml:3: no such key\nmore"}),
            "reload refused: lb.yaml:3: no such key",
            "bad",
        ),
        (
            answer(),
            answer(config=answer()["config"] | {"loaded_at": stamp(NOW)}),
            "configuration reloaded",
            "note",
        ),
        (answer(), answer(draining=True), "lbproxy drains: it stops", "warn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_changes(before: dict[str, Any], after: dict[str, Any], text: str, kind: str) -> None:
    assert changes(before, after) == [Change(NOW + 1, text, kind)]


def test_the_same_again_is_no_change() -> None:
    assert changes(answer(), answer()) == []


def test_what_backends_say_cannot_move_the_cursor() -> None:
    reason = "\x1b[2J\x9b0m\r\n\x07\u202e"
    look = History().take(NOW, answer(pool("p", backend(reason=reason, health="down"))))
    assert look.backends[0].reason == "?[2J?0m????"
    assert all(change.text.isprintable() for change in look.changes)
    assert printable("é – 漢") == "é – 漢"

"""Which client had a port of the balancer's, by the log: ports are used again, and lines are lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from lbproxy.admin.who import find_uses, parse_time

SOURCE = "10.0.1.13:40112"
NOON = 1_790_000_000.0


def line(event: str, at: float, client_port: int, **fields: Any) -> str:
    ts = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    base = {
        "ts": ts,
        "event": event,
        "mode": "http",
        "client": "10.0.0.7",
        "client_port": client_port,
        "source": SOURCE,
    }
    return json.dumps({**base, "method": "GET", "target": "/", "status": 200, "backend": "b", **fields}) + "\n"


LOG = [
    line("request", NOON + 1.0, 1, duration_s=0.5),
    line("request", NOON + 10.0, 2, duration_s=5.0),  # the same connection to the backend, another client
    line("request", NOON + 20.0, 3, duration_s=1.0, source="10.0.1.13:40113"),
    line("open", NOON + 30.0, 4, head_s=0.2),
    '{"ts": "2026-02-06T12:14:14.764Z", "event": "request", "source": "' + SOURCE + '", "dura\n',  # cut
    "Feb  6 12:14:14 host lbproxy[1]: " + line("request", NOON + 40.0, 5, duration_s=1.0),
    line("open", NOON + 50.0, 6, head_s=0.0),
    line("request", NOON + 90.0, 6, duration_s=40.0),
    line("health", NOON + 91.0, 7),
]


def clients(at: float) -> list[int]:
    return [use.line["client_port"] for use in find_uses(LOG, SOURCE) if use.covers(NOON + at)]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (-10, []),
        (0.7, [1]),
        (7, [2]),
        (15, []),
        (35, [4]),  # it has begun, and nothing says that it has ended
        (39.5, [5, 4]),
        (70, [6, 4]),
        (1000, [4]),
    ],
)
def test_by_time(at: float, expected: list[int]) -> None:
    assert clients(at) == expected


def test_times() -> None:
    assert parse_time("1790000000") == NOON
    assert parse_time("2026-09-21T14:13:20Z") == NOON
    assert parse_time("2026-09-21T14:13:20") == NOON
    assert parse_time("2026-09-21T16:13:20.5+02:00") == NOON + 0.5
    with pytest.raises(ValueError, match="noon"):
        parse_time("noon")

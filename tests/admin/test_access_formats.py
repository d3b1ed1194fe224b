"""The access log in other formats: by a table, and read by HAProxy's own halog."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from lbproxy.admin.access_formats import formatter
from tests.programs import require

HTTP = {
    "ts": "2026-02-06T12:14:14.764Z", "event": "request", "mode": "http", "listener": "api", "pool": "masters",
    "client": "10.0.0.7", "client_port": 33317, "method": "GET", "target": "/api/v1/pods", "status": 200,
    "backend": "10.0.1.10:8080", "source": "10.0.1.13:40112", "head_s": 0.069, "duration_s": 0.109, "bytes_in": 0,
    "bytes_out": 2750, "long": False, "end": "--",
}  # type: dict[str, Any]  # fmt: skip
REFUSED = HTTP | {"backend": None, "source": "", "head_s": None, "status": 503, "end": "PC"}
BAD = HTTP | {"method": "", "target": "", "backend": None, "source": "", "head_s": None, "status": 400, "end": "PR"}
TCP = {
    "ts": "2026-02-06T12:14:14.764Z", "event": "close", "mode": "tcp", "listener": "tls", "pool": "masters",
    "client": "10.0.0.7", "client_port": 33317, "backend": "10.0.1.10:6443", "source": "10.0.1.13:40112",
    "duration_s": 5.007, "bytes_in": 100, "bytes_out": 212, "end": "cD",
}  # type: dict[str, Any]  # fmt: skip
TCP_OPEN = {name: value for name, value in TCP.items() if name not in ("duration_s", "bytes_in", "bytes_out", "end")}
HTTP_OPEN = {
    **{name: HTTP[name] for name in HTTP if name not in ("duration_s", "bytes_in", "bytes_out", "end", "long")},
    "event": "open", "kind": "watch",
}  # fmt: skip

TURNED = [
    (
        "httplog", HTTP,
        '10.0.0.7:33317 [06/Feb/2026:12:14:14.655] api masters/10.0.1.10:8080 0/0/0/69/109 200 2750 - - ---- '
        '0/0/0/0/0 0/0 "GET /api/v1/pods HTTP/1.1"',
    ),
    (
        "httplog", REFUSED,
        '10.0.0.7:33317 [06/Feb/2026:12:14:14.655] api masters/<NOSRV> 0/0/-1/-1/109 503 2750 - - PC-- '
        '0/0/0/0/0 0/0 "GET /api/v1/pods HTTP/1.1"',
    ),
    (
        "httplog", BAD,
        '10.0.0.7:33317 [06/Feb/2026:12:14:14.655] api masters/<NOSRV> 0/0/-1/-1/109 400 2750 - - PR-- '
        '0/0/0/0/0 0/0 "<BADREQ>"',
    ),
    (
        "httplog", HTTP | {"target": '/a"b'},
        '10.0.0.7:33317 [06/Feb/2026:12:14:14.655] api masters/10.0.1.10:8080 0/0/0/69/109 200 2750 - - ---- '
        '0/0/0/0/0 0/0 "GET /a#22b HTTP/1.1"',
    ),
    ("httplog", HTTP_OPEN, ""),
    (
        "httplog", TCP,
        "10.0.0.7:33317 [06/Feb/2026:12:14:09.757] tls masters/10.0.1.10:6443 0/0/5007 212 cD 0/0/0/0/0 0/0",
    ),
    (
        "tcplog", TCP,
        "10.0.0.7:33317 [06/Feb/2026:12:14:09.757] tls masters/10.0.1.10:6443 0/0/5007 212 cD 0/0/0/0/0 0/0",
    ),
    (
        "tcplog", TCP | {"backend": None, "end": "SC"},
        "10.0.0.7:33317 [06/Feb/2026:12:14:09.757] tls masters/<NOSRV> 0/-1/5007 212 SC 0/0/0/0/0 0/0",
    ),
    (
        "tcplog", HTTP,
        "10.0.0.7:33317 [06/Feb/2026:12:14:14.655] api masters/10.0.1.10:8080 0/0/109 2750 -- 0/0/0/0/0 0/0",
    ),
    ("tcplog", TCP_OPEN, ""),
    (
        "text", HTTP,
        "2026-02-06T12:14:14.764Z request 10.0.0.7:33317 -> 10.0.1.10:8080 GET /api/v1/pods 200 0.109s in=0 out=2750 "
        "-- from=10.0.1.13:40112",
    ),
    (
        "text", REFUSED,
        "2026-02-06T12:14:14.764Z request 10.0.0.7:33317 -> - GET /api/v1/pods 503 0.109s in=0 out=2750 PC",
    ),
    (
        "text", HTTP_OPEN,
        "2026-02-06T12:14:14.764Z open    10.0.0.7:33317 -> 10.0.1.10:8080 GET /api/v1/pods 200 from=10.0.1.13:40112",
    ),
    ("text", TCP | {"client": "", "client_port": 0}, "2026-02-06T12:14:14.764Z close   unix:0 -> 10.0.1.10:6443 "
     "5.007s in=100 out=212 cD from=10.0.1.13:40112"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "line", "expected"), TURNED)
def test_a_line(name: str, line: dict[str, Any], expected: str) -> None:
    turn = formatter(name)
    assert turn is not None
    assert turn(json.dumps(line).encode() + b"\n") == (f"{expected}\n" if expected else "").encode()


def test_json_is_left_alone() -> None:
    assert formatter("json") is None


def test_halog_reads_it() -> None:
    """Raw lines have no syslog header, which halog expects by default: -s -4."""
    halog = require("halog")
    turn = formatter("httplog")
    assert turn is not None
    lines = turn(b"".join(json.dumps(line).encode() + b"\n" for line in (HTTP, HTTP | {"status": 500}, REFUSED, TCP)))
    done = subprocess.run([halog, "-s", "-4", "-H", "-srv"], input=lines, capture_output=True, timeout=10, check=True)
    assert b"0 parsing errors" in done.stderr
    servers = [line.split() for line in done.stdout.decode().splitlines()[1:]]
    assert servers == [
        ["masters/10.0.1.10:8080", "0", "1", "0", "0", "1", "0", "2", "2", "100.0", "0", "69"],
        ["masters/<NOSRV>", "0", "0", "0", "0", "1", "0", "1", "0", "0.0", "0", "0"],
    ]
    codes = subprocess.run([halog, "-s", "-4", "-tc"], input=lines, capture_output=True, timeout=10, check=True).stdout
    assert dict(line.split() for line in codes.decode().splitlines()) == {"--": "2", "PC": "1"}

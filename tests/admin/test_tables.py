"""What `lbproxy status` prints: for a pipe, for a wide terminal, and for one of 80 columns."""

from __future__ import annotations

from typing import Any

from lbproxy.admin.tables import status_table

WIDE = """\
lbproxy 1.2.3, up 3d, 2 of 2 workers ready
the last reload was REFUSED: lb.yaml:4: balanse: unknown key

listener    bind           mode  pool        active   accepted  refused     requests
kubernetes  10.0.0.1:6443  http  apiservers   5,123  1,234,567        0  123,456,789

pool apiservers: 1 of 3 get connections; round_robin, spread 6%
backend                  state   health   for  weight  active   long  failed  checks      reason
10.0.1.11:6443           ready   up        3d       1   1,708  1,500      12  ||||||||||  GET /readyz answered 200
10.0.1.12:6443           ready   down     14s       1       0      0      12  ||||||!!xx  no route to host
[fd00::3]:6443 (backup)  drain*  up      119s       7       3      3       0  .           GET /readyz answered 200
"""

NARROW = """\
lbproxy 1.2.3, up 3d, 2 of 2 workers ready
the last reload was REFUSED: lb.yaml:4: balanse: unknown key

listener   bind          mode pool       active  accepted refused    requests
kubernetes 10.0.0.1:6443 http apiservers  5,123 1,234,567       0 123,456,789

pool apiservers: 1 of 3 get connections; round_robin, spread 6%
backend                 state  health  for weight active  long failed checks
10.0.1.11:6443          ready  up       3d      1  1,708 1,500     12 ||||||||||
10.0.1.12:6443          ready  down    14s      1      0     0     12 ||||||!!xx
  no route to host
[fd00::3]:6443 (backup) drain* up     119s      7      3     3      0 .
  GET /readyz answered 200
"""


def backend(address: str, health: str, since: str, reason: str, checks: list[str], **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"address": address, "health": health, "since": since, "reason": reason}
    found |= {"state": "ready", "set_at_runtime": False, "backup": False, "eligible": False, "weight": 1}
    found |= {"active": 0, "long_streams": 0, "failed": 0, "checks": [{"verdict": check} for check in checks]}
    return found | fields


STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "started_at": "2026-01-01T00:00:00.000Z",
    "uptime_s": 3 * 86400,
    "draining": False,
    "config": {"error": "lb.yaml:4: balanse: unknown key"},
    "workers": [{"ready": True}, {"ready": True}],
    "listeners": [
        {
            "name": "kubernetes",
            "bind": ["10.0.0.1:6443"],
            "mode": "http",
            "pool": "apiservers",
            "active": 5123,
            "accepted": 1234567,
            "refused": 0,
            "requests": 123456789,
        }
    ],
    "pools": [
        {
            "name": "apiservers",
            "balance": "round_robin",
            "fail_open": False,
            "spread": 0.06,
            "backends": [
                backend(
                    "10.0.1.11:6443",
                    "up",
                    "2026-01-01T00:00:01.000Z",
                    "GET /readyz answered 200",
                    20 * ["up"],
                    eligible=True,
                    active=1708,
                    long_streams=1500,
                    failed=12,
                ),
                backend(
                    "10.0.1.12:6443",
                    "down",
                    "2026-01-03T23:59:46.000Z",
                    "no route to host",
                    16 * ["up"] + ["not_ready", "not_ready", "down", "down"],
                    failed=12,
                ),
                backend(
                    "[fd00::3]:6443",
                    "up",
                    "2026-01-03T23:58:01.000Z",
                    "GET /readyz answered 200",
                    ["none"],
                    state="drain",
                    set_at_runtime=True,
                    backup=True,
                    weight=7,
                    active=3,
                    long_streams=3,
                ),
            ],
        }
    ],
}


def test_for_a_pipe_and_for_a_wide_terminal_each_backend_is_a_line() -> None:
    assert status_table(STATUS) == WIDE
    assert status_table(STATUS, width=200) == status_table(STATUS)


def test_a_terminal_of_80_columns_breaks_no_line() -> None:
    assert status_table(STATUS, width=80) == NARROW
    assert max(map(len, NARROW.splitlines())) <= 80


def test_a_pool_that_fails_open_says_so() -> None:
    pool = STATUS["pools"][0] | {"fail_open": True}
    assert "1 of 3 get connections, FAILS OPEN; round_robin" in status_table(STATUS | {"pools": [pool]})

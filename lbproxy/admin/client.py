"""The other end of the unix socket: `lbproxy drain` and the like, and what they print.

Exit status: 0 done, 1 refused or not reached, 3 `--wait` has waited long enough.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

TIMEOUT = 60.0  # seconds for one answer; a reload reads a file in another process
LOOK = 0.25  # seconds between two looks of --wait
WAITED = 3  # exit status
BARS = {"up": "|", "not_ready": "!", "down": "x", "none": "."}  # one check each


class CallError(Exception):
    """A verb that was refused, or reached nobody."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("lbproxy", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


class Client:
    """Speaks to the lbproxy that listens on the first of some paths that somebody listens on."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = list(paths)

    def get(self, target: str) -> Any:
        return self._call("GET", target)

    def post(self, target: str, **fields: object) -> Any:
        return self._call(
            "POST", target, json.dumps({name: one for name, one in fields.items() if one not in ("", None)})
        )

    def _call(self, method: str, target: str, body: str | None = None) -> Any:
        errors = []
        for path in self._paths:
            connection = _UnixConnection(path)
            try:
                connection.request(method, target, body)
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except PermissionError:
                raise CallError(f"{path}: permission denied; become the user that lbproxy runs as, or root") from None
            except (FileNotFoundError, ConnectionRefusedError):
                errors.append(path)
                continue
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise CallError(f"{path}: {error or type(error).__name__}") from None
            finally:
                connection.close()
            if answer.status != http.client.OK:
                raise CallError(content.get("error", f"{answer.status} {answer.reason}"))
            return content
        where = " nor at ".join(errors)
        raise CallError(f"no lbproxy listens at {where}: is it running? --socket PATH says where (admin.socket)")


def run(args: argparse.Namespace, paths: Iterable[str]) -> int:
    """One verb. The exit status."""
    client = Client(paths)
    try:
        return _VERBS[args.command](client, args)
    except CallError as error:
        print(f"lbproxy {args.command}: {error}", file=sys.stderr)
        return 1


def _set_state(client: Client, args: argparse.Namespace) -> int:
    answer = client.post("/state", backend=args.backend, pool=args.pool, state=args.command)
    pool, backend = answer["pool"], answer["backend"]
    if not answer["ready"]:
        print(f"lbproxy: warning: pool {pool} has no backend left that gets connections", file=sys.stderr)
    if args.json:
        print(json.dumps(answer))
    else:
        print(f"{backend} of pool {pool}: {answer['state']}")
    if getattr(args, "wait", False):
        return _wait_until_empty(client, pool, backend, args.timeout)
    return 0


def _wait_until_empty(client: Client, pool: str, backend: str, timeout: float) -> int:
    deadline = time.monotonic() + timeout if timeout else None
    while True:
        active = next(
            one["active"]
            for each in client.get("/status")["pools"]
            if each["name"] == pool
            for one in each["backends"]
            if one["address"] == backend
        )
        if not active:
            return 0
        if deadline is not None and time.monotonic() > deadline:
            print(f"lbproxy drain: {backend} still has {active} after {timeout:g} s", file=sys.stderr)
            return WAITED
        time.sleep(LOOK)


def _weight(client: Client, args: argparse.Namespace) -> int:
    answer = client.post("/weight", backend=args.backend, pool=args.pool, weight=args.weight)
    print(
        json.dumps(answer) if args.json else f"{answer['backend']} of pool {answer['pool']}: weight {answer['weight']}"
    )
    return 0


def _kick(client: Client, args: argparse.Namespace) -> int:
    answer = client.post("/kick", backend=args.backend, client=args.client, pool=args.pool)
    count = answer["ended"]
    print(json.dumps(answer) if args.json else f"{count} connection{'' if count == 1 else 's'} ended")
    return 0


def _reload(client: Client, args: argparse.Namespace) -> int:
    answer = client.post("/reload")
    for warning in answer["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(answer) if args.json else "\n".join(answer["changes"]) or "nothing has changed")
    return 0


def _status(client: Client, args: argparse.Namespace) -> int:
    status = client.get("/status")
    print(json.dumps(status, indent=2) if args.json else table(status), end="" if not args.json else "\n")
    return 0


def _connections(client: Client, args: argparse.Namespace) -> int:
    asked = {"backend": args.backend, "pool": args.pool, "client": args.client}
    answer = client.get("/connections?" + urlencode({name: one for name, one in asked.items() if one}))
    if args.json:
        print(json.dumps(answer, indent=2))
        return 0
    rows = [["client", "listener", "backend", "kind", "age", "bytes"]]
    for one in answer["connections"]:
        moved = f"{one['moved']:,}"
        rows.append(
            [one["client"], one["listener"], one["backend"] or "-", one["kind"] or "-", _age(one["age"]), moved]
        )
    print(_columns(rows, right={4, 5}), end="")
    if (more := answer["count"] - len(answer["connections"])) > 0:
        print(f"and {more} more")
    return 0


def table(status: dict[str, Any]) -> str:
    """/status as a text for people and for grep: a line for each listener and each backend."""
    workers = status["workers"]
    ready = sum(one["ready"] for one in workers)
    lines = [f"lbproxy {status['version']}, up {_age(status['uptime_s'])}, {ready} of {len(workers)} workers ready"]
    if status["draining"]:
        lines.append("DRAINING: it takes no new connections")
    if status["config"]["error"]:
        lines.append(f"the last reload was REFUSED: {status['config']['error']}")
    rows = [["listener", "bind", "mode", "pool", "active", "accepted", "refused", "requests"]]
    for one in status["listeners"]:
        counts = [f"{one[name]:,}" for name in ("active", "accepted", "refused", "requests")]
        rows.append([one["name"], ",".join(one["bind"]), one["mode"], one["pool"], *counts])
    parts = ["\n".join(lines) + "\n", _columns(rows, right={4, 5, 6, 7})]
    for pool in status["pools"]:
        open_ = ", FAILS OPEN" if pool["fail_open"] else ""
        rows = [
            [
                f"pool {pool['name']}",
                "state",
                "health",
                "since",
                "weight",
                "active",
                "long",
                "failed",
                "checks",
                "reason",
            ]
        ]
        rows += [_backend_row(one) for one in pool["backends"]]
        title = f"{pool['balance']}, spread {pool['spread']:.0%}{open_}"
        parts.append(f"{_columns(rows, right={4, 5, 6, 7})}{title}\n")
    return "\n".join(parts)


def _backend_row(one: dict[str, Any]) -> list[str]:
    state = one["state"] + ("*" if one["set_at_runtime"] else "")
    strip = "".join(BARS.get(check["verdict"], "?") for check in one["checks"][-10:])
    numbers = [f"{one[name]:,}" for name in ("weight", "active", "long_streams", "failed")]
    name = one["address"] + (" (backup)" if one["backup"] else "")
    return [name, state, one["health"], one["since"][11:19], *numbers, strip, one["reason"]]


def _columns(rows: list[list[str]], right: set[int]) -> str:
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


_VERBS = {
    "drain": _set_state,
    "ready": _set_state,
    "maint": _set_state,
    "weight": _weight,
    "kick": _kick,
    "reload": _reload,
    "status": _status,
    "connections": _connections,
}

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
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from lbproxy.admin.tables import connections_table, status_table
from lbproxy.admin.who import search

TIMEOUT = 60.0  # seconds for one answer; a reload reads a file in another process
GLANCE = 3.0  # seconds for one answer that somebody watches
LOOK = 0.25  # seconds between two looks of --wait
WAITED = 3  # exit status
UPGRADE_TIMEOUT = 120.0  # seconds, most of them for connections that cannot move at once


class CallError(Exception):
    """A verb that was refused, or reached nobody."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("lbproxy", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Speaks to the lbproxy that listens on the first of some paths that somebody listens on."""

    def __init__(self, paths: Iterable[str], timeout: float = TIMEOUT) -> None:
        self._paths = list(paths)
        self._timeout = timeout

    def get(self, target: str) -> Any:
        return self._call("GET", target)

    def post(self, target: str, **fields: object) -> Any:
        return self._call(
            "POST", target, json.dumps({name: one for name, one in fields.items() if one not in ("", None)})
        )

    def _call(self, method: str, target: str, body: str | None = None) -> Any:
        errors = []
        for path in self._paths:
            connection = _UnixConnection(path, self._timeout)
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
    client = Client(paths, GLANCE if args.command == "top" else TIMEOUT)
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


def _upgrade(client: Client, args: argparse.Namespace) -> int:
    before = client.get("/status")
    version = client.post("/upgrade")["version"]
    deadline = time.monotonic() + UPGRADE_TIMEOUT
    while True:
        time.sleep(LOOK)
        with suppress(CallError):  # it is between two lives
            status = client.get("/status")
            done = status["upgraded_from"] and status["started_at"] != before["started_at"]
            if done and not status["handing_over"]:
                break
        if time.monotonic() > deadline:
            raise CallError(f"not over after {UPGRADE_TIMEOUT:g} s; its log says more")
    answer = {"from": before["version"], "to": version, "pid": status["pid"]}
    print(json.dumps(answer) if args.json else f"upgraded from {before['version']} to {version}")
    return 0


def _status(client: Client, args: argparse.Namespace) -> int:
    status = client.get("/status")
    print(json.dumps(status, indent=2) if args.json else status_table(status), end="" if not args.json else "\n")
    return 0


def _top(client: Client, args: argparse.Namespace) -> int:
    from lbproxy.admin.top.run import run as show  # rich is for this verb only

    return show(client, args)


def _connections(client: Client, args: argparse.Namespace) -> int:
    asked = {"backend": args.backend, "pool": args.pool, "client": args.client}
    answer = client.get("/connections?" + urlencode({name: one for name, one in asked.items() if one}))
    print(json.dumps(answer, indent=2) if args.json else connections_table(answer), end="" if not args.json else "\n")
    return 0


def _who(client: Client, args: argparse.Namespace) -> int:
    if args.log:
        return search(args)
    answer = client.get("/connections?" + urlencode({"source": args.source}))
    if not answer["count"]:
        print(f"lbproxy who: nobody uses {args.source} now; --log FILE says who did", file=sys.stderr)
        return 1
    print(json.dumps(answer["connections"], indent=2) if args.json else connections_table(answer), end="")
    return 0


_VERBS = {
    "drain": _set_state,
    "ready": _set_state,
    "maint": _set_state,
    "weight": _weight,
    "kick": _kick,
    "reload": _reload,
    "upgrade": _upgrade,
    "status": _status,
    "connections": _connections,
    "top": _top,
    "who": _who,
}

"""The other end of the unix socket: `lbproxy drain` and the like, and what they print.

Exit status: 0 done, 1 refused or not reached, 3 `--wait` has waited long enough.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Sequence
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
    """A verb that was refused, or got no answer."""


class NobodyListensError(CallError):
    """It has reached nobody."""


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
        raise NobodyListensError(
            f"no lbproxy listens at {where}: is it running? --socket PATH says where (admin.socket)"
        )


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
    pool, backends = answer["pool"], answer["backends"]
    if not answer["ready"]:
        print(f"lbproxy: warning: pool {pool} has no backend left that gets connections", file=sys.stderr)
    if args.json:
        print(json.dumps(answer))
    else:
        print("".join(f"{one} of pool {pool}: {answer['state']}\n" for one in backends), end="")
    if getattr(args, "wait", False):
        sys.stdout.flush()
        return _wait_until_empty(client, pool, backends, args.timeout)
    return 0


def _wait_until_empty(client: Client, pool: str, backends: Sequence[str], timeout: float) -> int:
    deadline = time.monotonic() + timeout if timeout else None
    while True:
        pools = {one["name"]: one["backends"] for one in client.get("/status")["pools"]}
        active = {one["address"]: one["active"] for one in pools.get(pool, ())}
        for backend in backends:
            if backend not in active:
                raise CallError(f"{backend} is in pool {pool} no more, by a reload: what it still has is not known")
        busy = [backend for backend in backends if active[backend]]
        if not busy:
            return 0
        if deadline is not None and time.monotonic() > deadline:
            left = ", ".join(f"{backend} still has {active[backend]}" for backend in busy)
            print(f"lbproxy drain: {left} after {timeout:g} s", file=sys.stderr)
            return WAITED
        time.sleep(LOOK)


def _weight(client: Client, args: argparse.Namespace) -> int:
    answer = client.post("/weight", backend=args.backend, pool=args.pool, weight=args.weight)
    if args.json:
        print(json.dumps(answer))
    else:
        for backend in answer["backends"]:
            print(f"{backend} of pool {answer['pool']}: weight {answer['weight']}")
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
    status = _wait_for_successor(client, before)
    answer = {"from": before["version"], "to": version, "pid": status["pid"]}
    print(json.dumps(answer) if args.json else f"upgraded from {before['version']} to {version}")
    return 0


def _wait_for_successor(client: Client, before: dict[str, Any]) -> dict[str, Any]:
    """Its status, once it has everything."""
    deadline = time.monotonic() + UPGRADE_TIMEOUT
    while time.monotonic() < deadline:
        time.sleep(LOOK)
        try:
            status: dict[str, Any] = client.get("/status")
        except NobodyListensError:  # the socket stays open from one life to the next
            raise CallError("lbproxy has ended, or its successor did not start; the log says more") from None
        except CallError:  # it is between two lives
            continue
        if status["started_at"] == before["started_at"]:
            if status["upgrade_error"]:
                raise CallError(status["upgrade_error"])
            if status["draining"]:
                raise CallError("lbproxy is shutting down, and does not upgrade any more")
        elif not status["upgraded_from"]:
            raise CallError("lbproxy has been started anew: its successor did not start; the log says more")
        elif not status["handing_over"]:
            return status
    raise CallError(f"not over after {UPGRADE_TIMEOUT:g} s; its log says more")


def _status(client: Client, args: argparse.Namespace) -> int:
    status = client.get("/status")
    if args.json:
        print(json.dumps(status, indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(status_table(status, width), end="")
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
    print(json.dumps(answer["connections"], indent=2) + "\n" if args.json else connections_table(answer), end="")
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

"""`lbproxy who IP:PORT [TIME]`: which client it was that an apiserver has seen as a connection of the balancer's.

An apiserver's own log says `srcIP="10.0.1.13:40112"`, and in tcp mode its audit log says no more than the address. The
balancer's port is used again and again, and in http mode by one client's request after the other: so a time is
needed, and the access log in JSON, which has the port as `source` in each line.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from lbproxy.admin.tables import columns

SLACK = 1.0  # seconds: two clocks, and each event has the time of the batch it was in
MOST = 50  # lines that are printed without a time, the last ones


@dataclass(frozen=True, slots=True)
class Use:
    """A request, or a connection in tcp mode, from a source. Times are seconds since the epoch."""

    began: float
    ended: float | None  # None: it has not, as far as the log goes
    line: dict[str, Any]

    def covers(self, at: float) -> bool:
        return self.began - SLACK <= at and (self.ended is None or at <= self.ended + SLACK)


def find_uses(lines: Iterable[str], source: str) -> list[Use]:
    """All uses of a source in a log, in the order of their lines; those without an end yet are the last."""
    quoted = f'"{source}"'
    uses: list[Use] = []
    begun: dict[tuple[Any, ...], Use] = {}
    for text in lines:
        if quoted not in text:
            continue
        line = _parsed(text)
        if line is None or line.get("source") != source:
            continue
        who = line.get("client"), line.get("client_port")
        ts = datetime.fromisoformat(line["ts"]).timestamp()
        if line["event"] == "open":
            begun[who] = Use(ts - (line.get("head_s") or 0.0), None, line)
        else:
            begun.pop(who, None)
            uses.append(Use(ts - line["duration_s"], ts, line))
    return uses + list(begun.values())


def parse_time(text: str) -> float:
    """RFC 3339, without a zone in UTC, or seconds since the epoch. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def search(args: argparse.Namespace) -> int:
    """The command, in log files. The exit status: 1 if there is nothing, or a file cannot be read."""
    try:
        uses = find_uses(_lines(args.log), args.source)
    except OSError as error:
        print(f"lbproxy who: {error.filename or 'the log'}: {error.strerror or error}", file=sys.stderr)
        return 1
    at = args.time
    found = [use for use in uses if use.covers(at)] if at is not None else uses[-MOST:]
    if not found:
        print(f"lbproxy who: {_nothing(args.source, at, uses)}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps([use.line for use in found], indent=2))
    else:
        print(columns([["began", "ended", "client", "backend", "request"], *map(_row, found)], right=set()), end="")
    return 0


def _nothing(source: str, at: float | None, uses: list[Use]) -> str:
    if at is None or not uses:
        return f"no line has the source {source}; lines have one if log.access is on, in JSON"
    nearest = min(uses, key=lambda use: min(abs(use.began - at), abs((use.ended or at) - at)))
    return f"nobody used {source} then; the nearest is from {_stamp(nearest.began)}, a time before or after says who"


def _row(use: Use) -> list[str]:
    line = use.line
    request = "tcp" if line["mode"] == "tcp" else f"{line['method']} {line['target']} {line['status']}"
    ended = "still" if use.ended is None else _stamp(use.ended)
    return [_stamp(use.began), ended, f"{line['client']}:{line['client_port']}", line["backend"] or "-", request]


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parsed(text: str) -> dict[str, Any] | None:
    """A line of the access log. What a log collector has put before it does not matter."""
    try:
        line = json.loads(text[text.index("{") :])
    except ValueError:  # cut by a rotation, say
        return None
    return line if isinstance(line, dict) and line.get("event") in ("open", "close", "request") else None


def _lines(paths: Iterable[str]) -> Iterator[str]:
    with ExitStack() as stack:
        for path in paths:
            file: TextIO
            if path == "-":
                file = sys.stdin
            elif path.endswith(".gz"):
                file = stack.enter_context(gzip.open(path, "rt", errors="replace"))
            else:
                file = stack.enter_context(open(path, errors="replace"))
            yield from file

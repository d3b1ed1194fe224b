"""What the answers of the unix socket look like as text: for people, for grep and for ssh."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

BARS = {"up": "|", "not_ready": "!", "down": "x", "none": "."}  # one check each


def status_table(status: dict[str, Any], width: int | None = None) -> str:
    """/status: a line for each listener and each backend.

    In a terminal of a `width` that is too small for that, the reason is on a line of its own, and only where something
    is the matter: lines that a terminal breaks cannot be read.
    """
    workers = status["workers"]
    ready = sum(one["ready"] for one in workers)
    lines = [f"lbproxy {status['version']}, up {age(status['uptime_s'])}, {ready} of {len(workers)} workers ready"]
    if status["draining"]:
        lines.append("DRAINING: it takes no new connections")
    if status["config"]["error"]:
        lines.append(f"the last reload was REFUSED: {status['config']['error']}")
    rows = [["listener", "bind", "mode", "pool", "active", "accepted", "refused", "requests"]]
    for one in status["listeners"]:
        counts = [f"{one[name]:,}" for name in ("active", "accepted", "refused", "requests")]
        rows.append([one["name"], ",".join(one["bind"]), one["mode"], one["pool"], *counts])
    parts = ["\n".join(lines) + "\n", _fitted(rows, {4, 5, 6, 7}, width)]
    now = datetime.fromisoformat(status["started_at"]) + timedelta(seconds=status["uptime_s"])
    for pool in status["pools"]:
        used = sum(one["eligible"] for one in pool["backends"])
        open_ = ", FAILS OPEN" if pool["fail_open"] else ""
        title = f"pool {pool['name']}: {used} of {len(pool['backends'])} get connections{open_}"
        title += f"; {pool['balance']}, spread {pool['spread']:.0%}\n"
        rows = [["backend", "state", "health", "for", "weight", "active", "long", "failed", "checks"]]
        rows += [_backend_row(one, now) for one in pool["backends"]]
        reasons = ["reason", *(one["reason"] for one in pool["backends"])]
        right = {3, 4, 5, 6, 7}
        whole = columns([[*row, reason] for row, reason in zip(rows, reasons, strict=True)], right)
        if width is not None and max(map(len, whole.splitlines())) > width:
            quiet = ["", *("" if _is_well(one) else one["reason"] for one in pool["backends"])]
            table = _fitted(rows, right, width).splitlines()
            whole = "".join(
                f"{line}\n" + (f"  {reason}\n" if reason else "") for line, reason in zip(table, quiet, strict=True)
            )
        parts.append(title + whole)
    return "\n".join(parts)


def connections_table(answer: dict[str, Any]) -> str:
    """/connections: a line for each."""
    rows = [["client", "listener", "source", "backend", "kind", "age", "bytes"]]
    for one in answer["connections"]:
        moved = f"{one['moved']:,}"
        where = [one["source"] or "-", one["backend"] or "-", one["kind"] or "-"]
        rows.append([one["client"], one["listener"], *where, age(one["age"]), moved])
    more = answer["count"] - len(answer["connections"])
    return columns(rows, right={5, 6}) + (f"and {more} more\n" if more > 0 else "")


def columns(rows: list[list[str]], right: set[int], gap: int = 2) -> str:
    """Rows of cells as text; the columns with these numbers are aligned to the right."""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * gap).join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _fitted(rows: list[list[str]], right: set[int], width: int | None) -> str:
    """Columns, closer together where they would not fit."""
    text = columns(rows, right)
    return text if width is None or max(map(len, text.splitlines())) <= width else columns(rows, right, gap=1)


def age(seconds: float) -> str:
    """A duration at a glance: two of a unit before the next larger one is used."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _is_well(one: dict[str, Any]) -> bool:
    return bool(one["health"] == "up" and one["state"] == "ready")


def _backend_row(one: dict[str, Any], now: datetime) -> list[str]:
    state = one["state"] + ("*" if one["set_at_runtime"] else "")
    strip = "".join(BARS.get(check["verdict"], "?") for check in one["checks"][-10:])
    numbers = [f"{one[name]:,}" for name in ("weight", "active", "long_streams", "failed")]
    name = one["address"] + (" (backup)" if one["backup"] else "")
    since = age(max((now - datetime.fromisoformat(one["since"])).total_seconds(), 0))
    return [name, state, one["health"], since, *numbers, strip]

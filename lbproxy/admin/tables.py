"""What the answers of the unix socket look like as text: for people, for grep and for ssh."""

from __future__ import annotations

from typing import Any

BARS = {"up": "|", "not_ready": "!", "down": "x", "none": "."}  # one check each


def status_table(status: dict[str, Any]) -> str:
    """/status: a line for each listener and each backend."""
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
    parts = ["\n".join(lines) + "\n", columns(rows, right={4, 5, 6, 7})]
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
        parts.append(f"{columns(rows, right={4, 5, 6, 7})}{title}\n")
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


def columns(rows: list[list[str]], right: set[int]) -> str:
    """Rows of cells as text; the columns with these numbers are aligned to the right."""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def age(seconds: float) -> str:
    """A duration at a glance: two of a unit before the next larger one is used."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _backend_row(one: dict[str, Any]) -> list[str]:
    state = one["state"] + ("*" if one["set_at_runtime"] else "")
    strip = "".join(BARS.get(check["verdict"], "?") for check in one["checks"][-10:])
    numbers = [f"{one[name]:,}" for name in ("weight", "active", "long_streams", "failed")]
    name = one["address"] + (" (backup)" if one["backup"] else "")
    return [name, state, one["health"], one["since"][11:19], *numbers, strip, one["reason"]]

"""One picture of `lbproxy top`: a function of what is known, what is looked at, and the size of the terminal.

What matters most comes first and goes last: the state in one word, the pools with their backends, then what has
changed, then the rest. Every state has a word and a mark besides its colour.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.cells import cell_len
from rich.text import Text

from lbproxy.admin.top import words
from lbproxy.admin.top.below import below
from lbproxy.admin.top.canvas import Cell, Column, apart, joined, line, table
from lbproxy.admin.top.model import Backend, Look, Pool
from lbproxy.admin.top.view import Sort, View, shown
from lbproxy.admin.top.words import Glyphs

STYLES = {"up": "green", "not_ready": "yellow", "down": "bold red", "drain": "cyan", "maint": "cyan", "unknown": "dim"}
SHORT = 10  # checks that are shown at least
LONG = 20  # all that /status has
FULL_WORDS = 110  # cells from which nothing in the second line is abbreviated
IPV4 = 23  # cells of the longest such address, with its port and the cursor: it is never cut
SHARE = 12  # cells of a bar
ROOM_FOR_REASON = 24  # cells
BADGES = {"good": "bold black on green", "warn": "bold black on yellow", "bad": "bold white on red"}


def frame(look: Look | None, view: View, width: int, height: int | None, glyphs: Glyphs) -> list[Text]:
    """The lines, none wider than `width` and no more than `height` of them; None is as many as there are."""
    if look is None:
        lines = [line(width, glyphs, (" NO ANSWER ", BADGES["bad"]), (f"  {view.problem}", ""))]
        return _cut(lines, [], height)
    lines = [_title(look, view, width, glyphs), _rates(look, width, glyphs)]
    for text in _troubles(look, view):
        lines.append(line(width, glyphs, (f" {text}", "bold red")))
    room = None if height is None else height - len(lines) - 1
    reserved = 0 if room is None else min(room // 3, 7)
    pools = _pools(look, view, width, None if room is None else room - reserved, glyphs)
    lines += pools
    rest = None if room is None else room - len(pools)
    lines += below(look, view, width, rest, glyphs)
    return _cut(lines, [_keys(view, look, width, glyphs)], height)


def badge(look: Look, view: View) -> Cell:
    """The state of everything in one or two words."""
    # One that is in several pools is one.
    down = {one.address for one in look.backends if one.state == "ready" and one.health == "down"}
    waiting = {one.address for one in look.backends if one.state == "ready" and one.health == "not_ready"}
    aside = {one.address for one in look.backends if one.state != "ready"}
    if view.problem:
        return " NO ANSWER ", BADGES["bad"]
    if look.draining:
        return " DRAINING ", BADGES["warn"]
    if any(not pool.ready and not pool.fail_open for pool in look.pools):
        return " OUTAGE ", BADGES["bad"]
    if any(pool.fail_open for pool in look.pools):
        return " FAILS OPEN ", BADGES["bad"]
    if down:
        return f" {len(down)} DOWN ", BADGES["warn"]
    if waiting:
        return f" {len(waiting)} NOT READY ", BADGES["warn"]
    if look.config_error:
        return " RELOAD REFUSED ", BADGES["warn"]
    if aside:
        return f" {len(aside)} SET ASIDE ", BADGES["warn"]
    return " ALL WELL ", BADGES["good"]


def _cut(lines: list[Text], footer: list[Text], height: int | None) -> list[Text]:
    if height is None:
        return lines
    kept = lines[: max(height - len(footer), 0)]
    kept += [Text(end="") for _ in range(height - len(footer) - len(kept))]
    return (kept + footer)[:height]


def _title(look: Look, view: View, width: int, glyphs: Glyphs) -> Text:
    dot = f" {glyphs.dot} "
    ready = sum(one.ready for one in look.workers)
    cells = [
        badge(look, view),
        (f" lbproxy {look.version}", "bold"),
        (f"{dot}running for {words.span(look.uptime)}", ""),
        (f"{dot}{ready} of {len(look.workers)} workers", "" if ready == len(look.workers) else "yellow"),
        (f"{dot}{look.path}", "dim"),
    ]
    clock = time.strftime("%H:%M:%S", time.localtime(look.at))
    return apart(width, glyphs, cells, (f"PAUSED {clock}" if view.paused else clock, "reverse" if view.paused else ""))


def _rates(look: Look, width: int, glyphs: Glyphs) -> Text:
    backends = look.backends
    requests = _sum(one.request_rate for one in look.listeners if one.mode == "http")
    accepts = _sum(one.accept_rate for one in look.listeners)
    figures: list[list[Cell]] = []
    wide = width >= FULL_WORDS
    if any(one.mode == "http" for one in look.listeners):
        figures.append([(words.rate(requests), "bold"), (" requests/s" if wide else " req/s", "")])
    figures += [
        [(words.rate(accepts), "bold"), (" connections/s" if wide else " conn/s", "")],
        [(words.count(sum(one.active for one in look.listeners)), "bold"), (" open", "")],
        [(words.count(sum(one.long_streams for one in backends)), "bold"), (" long streams" if wide else " long", "")],
        [
            ("in ", ""),
            (words.size(_sum(one.rate_in for one in backends)), "bold"),
            ("/s out ", ""),
            (words.size(_sum(one.rate_out for one in backends)), "bold"),
            ("/s", ""),
        ],
    ]
    cells = [(" ", ""), *joined(figures, (f" {glyphs.dot} ", "dim"))]
    used = sum(len(text) for text, _ in cells)
    trend = words.spark(look.trend, min(width - used - 3, 60), glyphs)
    return apart(width, glyphs, cells, (trend, "cyan"))


def _sum(rates: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _troubles(look: Look, view: View) -> list[str]:
    found = []
    if view.problem:
        found.append(f"{view.problem}; what follows is what it said last")
    if look.config_error:
        found.append(f"the last reload was refused: {look.config_error}")
    return found


# -- pools ---------------------------------------------------------------------------------------------------------


def _pools(look: Look, view: View, width: int, height: int | None, glyphs: Glyphs) -> list[Text]:
    """All that are shown; what does not fit is scrolled so that the selected backend is in sight."""
    lines, at = _pool_lines(look, view, width, glyphs, with_reasons=True)
    if height is None or len(lines) <= height:
        return lines
    lines, at = _pool_lines(look, view, width, glyphs, with_reasons=False)
    if len(lines) <= height:
        return lines
    height = max(height - 1, 1)
    first = min(max(at - height // 2, 0), len(lines) - height)
    above, under = first, len(lines) - first - height
    more = f" {glyphs.ellipsis} {above} lines above, {under} below; 1-9 shows one pool"
    return [*lines[first : first + height], line(width, glyphs, (more, "dim"))]


def _pool_lines(look: Look, view: View, width: int, glyphs: Glyphs, *, with_reasons: bool) -> tuple[list[Text], int]:
    """The lines, and which one is the selected backend's."""
    lines: list[Text] = []
    at = 0
    for number, pool, backends in shown(view, look):
        lines += [Text(end=""), _pool_title(number, pool, width, glyphs)]
        columns = _columns(look, pool, view, glyphs)
        rows = table(backends, columns, width, glyphs)
        checks = _width_of_checks(rows, width)
        if checks > SHORT:
            rows = table(backends, _columns(look, pool, view, glyphs, checks), width, glyphs)
        room = width - max(row.cell_len for row in rows) - 2
        lines.append(rows[0])
        for backend, row in zip(backends, rows[1:], strict=True):
            if (backend.pool, backend.address) == view.selected:
                at = len(lines)
                row.stylize("bold")
            tells = backend.health != "up" and with_reasons
            if tells and room >= ROOM_FOR_REASON:
                row.append_text(line(room + 2, glyphs, (f"  {backend.reason}", "dim")))
            lines.append(row)
            if tells and room < ROOM_FOR_REASON:
                lines.append(line(width, glyphs, (f"     {backend.reason}", STYLES.get(backend.health, ""))))
    return lines, at


def _width_of_checks(rows: list[Text], width: int) -> int:
    """More checks where there is room, but a reason beside them is worth more."""
    free = width - max(row.cell_len for row in rows) - ROOM_FOR_REASON - 16
    return SHORT + min(max(free, 0), LONG - SHORT)


def _pool_title(number: int, pool: Pool, width: int, glyphs: Glyphs) -> Text:
    dot = (f" {glyphs.dot} ", "dim")
    short = pool.ready < len(pool.backends)
    groups: list[list[Cell]] = [
        [(f" {number} ", "dim"), (pool.name, "bold"), (f"  {pool.balance}", "")],
        [(f"{pool.ready} of {len(pool.backends)} get connections", "yellow" if short else "")],
        [(f"spread {pool.spread:.0%}", "yellow" if pool.spread > 0.5 else "")],
    ]
    if pool.fail_open:
        groups.append([("FAILS OPEN: none is ready, those alive get the traffic", "bold red")])
    return line(width, glyphs, *joined(groups, dot))


def _columns(look: Look, pool: Pool, view: View, glyphs: Glyphs, checks: int = SHORT) -> list[Column[Backend]]:
    http = any(one.pool == pool.name and one.mode == "http" for one in look.listeners)
    weights = len({one.weight for one in pool.backends}) > 1
    names = max(cell_len(one.address) for one in look.backends) + 2
    most = max((one.active for one in pool.backends), default=0)

    def name(one: Backend) -> Cell:
        cursor = glyphs.cursor if (one.pool, one.address) == view.selected else " "
        return f"{cursor} {one.address}", ""

    def verdict(one: Backend) -> Cell:
        mark = glyphs.marks.get(one.verdict, "?")
        return f"{mark} {words.verdict(one.verdict)}" + ("*" if one.set_at_runtime else ""), STYLES.get(one.verdict, "")

    def strip(one: Backend) -> Text:
        bars = [(words.bar(check, glyphs), STYLES.get(check.verdict, "dim")) for check in one.checks[-checks:]]
        return Text.assemble(" " * (checks - len(bars)), *bars)

    def failed(one: Backend) -> Cell:
        return words.count(one.failed), "yellow" if one.fail_rate else "" if one.failed else "dim"

    columns: list[Column[Backend]] = [
        Column("  BACKEND", name, usual=names, least=min(names, IPV4), middle=True),
        Column("STATE", verdict, usual=11),
        Column("FOR", lambda one: (words.span(look.at - one.since), "dim"), rank=3, right=True, usual=4),
        Column("CHECKS".rjust(checks), strip, rank=4),
        Column("OPEN", lambda one: (words.count(one.active), ""), rank=1, right=True, usual=5),
        Column("LONG", lambda one: (words.count(one.long_streams), ""), rank=5, right=True, usual=5),
        Column("REQ/S" if http else "CONN/S", lambda one: (words.rate(one.rate), ""), rank=2, right=True, usual=6),
        Column("FAILED", failed, rank=6, right=True),
        Column("OUT/S", lambda one: (words.size(one.rate_out), ""), rank=7, right=True),
        Column("IN/S", lambda one: (words.size(one.rate_in), ""), rank=8, right=True),
        Column("WEIGHT", lambda one: (str(one.weight), ""), rank=5 if weights else 12, right=True),
        Column("CHECK", lambda one: (_latency(one), "dim"), rank=10, right=True),
        Column("TOTAL", lambda one: (words.count(one.total), "dim"), rank=11, right=True),
        Column("SHARE", lambda one: (_share(one.active, most, glyphs), "blue"), rank=13, usual=SHARE),
    ]
    if any(one.backup for one in pool.backends):
        columns.insert(2, Column("ROLE", lambda one: ("backup" if one.backup else "", "dim"), rank=4))
    return columns


def _latency(one: Backend) -> str:
    return f"{one.checks[-1].latency_ms:.0f}ms" if one.checks else "-"


def _share(active: int, most: int, glyphs: Glyphs) -> str:
    """A bar against the one with the most."""
    return glyphs.bars[-1] * round(SHARE * active / most) if most else ""


def _keys(view: View, look: Look, width: int, glyphs: Glyphs) -> Text:
    cells: list[Cell] = []
    keys = [
        ("q", "quit"),
        ("p", "go on" if view.paused else "pause"),
        (glyphs.arrows, "select"),
        ("s", f"sort: {view.sort.value}" if view.sort is not Sort.CONFIG else "sort"),
    ]
    if len(look.pools) > 1:
        keys.append(("0-9", "all pools" if view.pool else "one pool"))
    for key, text in keys:
        cells += [(f" {key} ", "reverse"), (f" {text}  ", "")]
    return line(width, glyphs, *cells)

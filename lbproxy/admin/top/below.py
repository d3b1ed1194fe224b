"""The lower part of `lbproxy top`: the selected backend, what has changed, listeners, streams, leases, workers.

In a small terminal it is one line of each; in a wide one, two columns of tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.text import Text

from lbproxy.admin.top import words
from lbproxy.admin.top.canvas import Cell, Column, beside, joined, line, table
from lbproxy.admin.top.model import Backend, Lease, Listener, Look, Streams, Worker
from lbproxy.admin.top.view import View
from lbproxy.admin.top.words import Glyphs

WIDE = 132  # columns from which there are two
TALL = 14  # lines from which it is worth it
LABEL = 11  # cells
NODES = "kube-node-lease/"
LEADER_LIMIT, NODE_LIMIT = 10.0, 40.0  # seconds without renewal after which a leader gives up, a node is NotReady
STYLES = {"good": "green", "warn": "yellow", "bad": "bold red", "note": ""}
ROWS = 6  # of a table
MANY = 100  # lines of changes where there is no limit


def below(look: Look, view: View, width: int, height: int | None, glyphs: Glyphs) -> list[Text]:
    """No more than `height` lines."""
    if height is not None and height <= 0:
        return []
    if width >= WIDE and (height is None or height >= TALL):
        left = width // 2
        right = width - left - 2
        lines = beside(_tables(look, left - 4, glyphs), _events(look, view, right, height, glyphs), left)
    else:
        lines = _lines(look, view, width, height, glyphs)
    return lines if height is None else lines[:height]


# -- one line of each ------------------------------------------------------------------------------------------------


def _lines(look: Look, view: View, width: int, height: int | None, glyphs: Glyphs) -> list[Text]:
    fixed = [Text(end=""), *_selected(look, view, width, glyphs)]
    roomy = height is None or height >= TALL
    if roomy and len(fixed) > 1:
        fixed.append(Text(end=""))
    facts = [
        *_labelled("listeners", [_listener(one, glyphs) for one in look.listeners[:3]], width, glyphs),
        *_labelled("streams", [_streams(look, glyphs)], width, glyphs),
        *_labelled("leases", [_leases(look, glyphs)], width, glyphs),
        *_labelled("workers", [_workers(look, glyphs)], width, glyphs),
    ]
    if height is None:
        return [*fixed, *facts, Text(end=""), *_changes(look, width, MANY, glyphs)]
    # Changes are worth more than the last facts, and in a small terminal a blank line less than either.
    for_changes = min(len(look.changes) + 1, max(height // 2, 3))
    facts = facts[: max(height - len(fixed) - for_changes, 0)]
    lines = [*fixed, *facts]
    if roomy or height - len(lines) > for_changes:
        lines.append(Text(end=""))
    return lines + _changes(look, width, height - len(lines) - 1, glyphs)


def _labelled(label: str, rows: Sequence[list[Cell]], width: int, glyphs: Glyphs) -> list[Text]:
    found = []
    for number, cells in enumerate(row for row in rows if row):
        title = f" {'' if number else label:<{LABEL}}"
        found.append(line(width, glyphs, (title, "dim"), *cells))
    return found


def _listener(one: Listener, glyphs: Glyphs) -> list[Cell]:
    groups: list[list[Cell]] = [
        [(one.name, "bold"), *([(f" {one.bind}", "")] if one.bind != one.name else []), (f" {one.mode}", "")],
        [(f"{words.count(one.active)} open", "")],
        [(f"{words.rate(one.accept_rate)} conn/s", "")],
    ]
    if one.mode == "http":
        groups.append([(f"{words.rate(one.request_rate)} req/s", "")])
    if one.refused:
        groups.append([(f"{words.count(one.refused)} refused", "yellow")])
    return joined(groups, (f" {glyphs.dot} ", "dim"))


def _streams(look: Look, glyphs: Glyphs) -> list[Cell]:
    groups: list[list[Cell]] = [
        [(f"{one.kind} ", ""), (words.count(one.count), "bold"), (f" oldest {words.span(one.oldest)}", "dim")]
        for one in _kinds(look)
    ] or [[("no long ones", "dim")]]
    resumed, lost = (sum(getattr(one, name) for one in look.listeners) for name in ("resumed", "not_resumed"))
    if resumed:
        groups.append([(f"{words.count(resumed)} resumed", "green")])
    if lost:
        groups.append([(f"{words.count(lost)} not resumed", "yellow")])
    return joined(groups, (f" {glyphs.dot} ", "dim"))


def _leases(look: Look, glyphs: Glyphs) -> list[Cell]:
    if not look.leases:
        return [("none seen", "dim")]
    worst = max(look.leases, key=lambda one: one.longest)
    waiting = max(look.leases, key=lambda one: one.since / _limit(one))
    groups: list[list[Cell]] = [
        [(f"{words.count(look.leases_known)} known", "")],
        [("longest gap ", ""), (words.seconds(worst.longest), "bold"), (f" {_short(worst)}", "")],
        [(f"{words.seconds(waiting.since)} since {_short(waiting)} renewed", _lease_style(waiting))],
    ]
    return joined(groups, (f" {glyphs.dot} ", "dim"))


def _workers(look: Look, glyphs: Glyphs) -> list[Cell]:
    groups: list[list[Cell]] = [
        [
            (f"{one.pid} ", "dim"),
            (f"{words.count(one.connections)} open" if one.ready else "not ready", "" if one.ready else "yellow"),
        ]
        for one in look.workers
    ]
    return joined(groups, (f" {glyphs.dot} ", "dim"))


# -- tables --------------------------------------------------------------------------------------------------------


def _tables(look: Look, width: int, glyphs: Glyphs) -> list[Text]:
    lines = _titled("LISTENERS", table(look.listeners, _LISTENERS, width - 1, glyphs), glyphs)
    kinds = _kinds(look)
    if kinds:
        lines += _titled("LONG STREAMS", table(kinds, _stream_columns(kinds), width - 1, glyphs), glyphs)
    if look.leases:
        known = f"LEASES  {words.count(look.leases_known)} known"
        order = sorted(look.leases, key=lambda one: -one.since / _limit(one))[:ROWS]
        lines += _titled(known, table(order, _LEASES, width - 1, glyphs), glyphs)
    lines += _titled("WORKERS", table(look.workers[:ROWS], _WORKERS, width - 1, glyphs), glyphs)
    return lines


def _titled(title: str, rows: Sequence[Text], glyphs: Glyphs) -> list[Text]:
    found = [Text(end=""), Text.assemble(" ", (title, "bold"), end="")]
    return found + [Text.assemble(" ", row, end="") for row in rows]


_LISTENERS: list[Column[Listener]] = [
    Column("name", lambda one: (one.name, ""), least=12, middle=True),
    Column("bind", lambda one: (one.bind, ""), rank=2, least=12),
    Column("mode", lambda one: (one.mode, ""), rank=3),
    Column("pool", lambda one: (one.pool, ""), rank=4, least=8),
    Column("open", lambda one: (words.count(one.active), ""), right=True),
    Column("conn/s", lambda one: (words.rate(one.accept_rate), ""), rank=1, right=True),
    Column("req/s", lambda one: (words.rate(one.request_rate), ""), rank=1, right=True),
    Column("refused", lambda one: (words.count(one.refused), "yellow" if one.refused else "dim"), rank=5, right=True),
    Column("resumed", lambda one: (words.count(one.resumed), "" if one.resumed else "dim"), rank=6, right=True),
    Column("lost", lambda one: (words.count(one.not_resumed), "yellow" if one.not_resumed else "dim"), 6, right=True),
]

_LEASES: list[Column[Lease]] = [
    Column("lease", lambda one: (one.name, ""), least=16, middle=True),
    Column("renewed", lambda one: (f"{words.seconds(one.since)} ago", _lease_style(one)), right=True),
    Column("longest gap", lambda one: (words.seconds(one.longest), _gap_style(one, one.longest)), right=True),
    Column("limit", lambda one: (words.span(_limit(one)), "dim"), rank=1, right=True),
]

_WORKERS: list[Column[Worker]] = [
    Column("process", lambda one: (str(one.pid), ""), right=True),
    Column("state", lambda one: ("ready", "green") if one.ready else ("not ready", "yellow")),
    Column("open", lambda one: (words.count(one.connections), ""), right=True),
]


def _stream_columns(kinds: Sequence[Streams]) -> list[Column[Streams]]:
    columns: list[Column[Streams]] = [
        Column("kind", lambda one: (one.kind, "")),
        Column("open", lambda one: (words.count(one.count), "bold"), right=True),
        Column("oldest", lambda one: (words.span(one.oldest), ""), right=True),
    ]
    return columns + [_age_column(name) for name, _ in kinds[0].ages]


def _age_column(name: str) -> Column[Streams]:
    def cell(one: Streams) -> Cell:
        count = dict(one.ages).get(name, 0)
        return words.count(count), "" if count else "dim"

    return Column(name.replace("_", " "), cell, rank=1, right=True)


# -- the selected backend, and what has changed ------------------------------------------------------------------------


def _events(look: Look, view: View, width: int, height: int | None, glyphs: Glyphs) -> list[Text]:
    lines = [Text(end=""), *_selected(look, view, width, glyphs)]
    if len(lines) > 1:
        lines.append(Text(end=""))
    return lines + _changes(look, width, MANY if height is None else height - len(lines) - 1, glyphs)


def _selected(look: Look, view: View, width: int, glyphs: Glyphs) -> list[Text]:
    """What there is to say of one backend, in three lines."""
    one = next((one for one in look.backends if (one.pool, one.address) == view.selected), None)
    if one is None:
        return []
    return [
        line(width, glyphs, (f" {glyphs.cursor} ", ""), (one.address, "bold"), (f"  {one.reason}", "")),
        line(width, glyphs, ("   ", ""), *joined(_figures(one), (f" {glyphs.dot} ", "dim"))),
        line(width, glyphs, ("   ", ""), *joined(_kinds_of(one), (f" {glyphs.dot} ", "dim"))),
    ]


def _figures(one: Backend) -> list[list[Cell]]:
    state = f"{one.state}, set at run time" if one.set_at_runtime else one.state
    figures = [
        state + (", backup" if one.backup else ""),
        f"weight {one.weight}",
        f"{words.count(one.total)} in all",
        f"{words.count(one.failed)} failed",
        f"{words.count(one.retries)} retried",
        f"{words.size(one.bytes_in)} in {words.size(one.bytes_out)} out",
    ]
    return [[(text, "")] for text in figures]


def _kinds_of(one: Backend) -> list[list[Cell]]:
    health = f"{words.verdict(one.health)} since {time.strftime('%H:%M:%S', time.localtime(one.since))}"
    check = f"check {one.checks[-1].latency_ms:.1f} ms" if one.checks else "not checked"
    streams = [f"{each.kind} {words.count(each.count)} oldest {words.span(each.oldest)}" for each in one.streams]
    return [[(text, "")] for text in (health, check, *(streams or ["no long streams"]))]


def _changes(look: Look, width: int, count: int, glyphs: Glyphs) -> list[Text]:
    """A title and so many lines at most; nothing if there is no room for one."""
    if count < 1:
        return []
    lines = [line(width, glyphs, (" CHANGES", "bold"))]
    for change in look.changes[:count]:
        stamp = time.strftime("%H:%M:%S", time.localtime(change.at))
        lines.append(line(width, glyphs, (f" {stamp}  ", "dim"), (change.text, STYLES[change.kind])))
    return lines


# -- what several of them need -----------------------------------------------------------------------------------------


def _kinds(look: Look) -> list[Streams]:
    """Long streams of all backends by kind, the most frequent first."""
    found: dict[str, Streams] = {}
    for one in (each for backend in look.backends for each in backend.streams):
        mine = found.get(one.kind, Streams(one.kind, 0, 0.0, tuple((name, 0) for name, _ in one.ages)))
        ages = tuple((name, a + b) for (name, a), (_, b) in zip(mine.ages, one.ages, strict=False))
        found[one.kind] = Streams(one.kind, mine.count + one.count, max(mine.oldest, one.oldest), ages)
    return sorted(found.values(), key=lambda one: -one.count)


def _limit(one: Lease) -> float:
    return NODE_LIMIT if one.name.startswith(NODES) else LEADER_LIMIT


def _short(one: Lease) -> str:
    """Without the namespace that says nothing."""
    return one.name.removeprefix("kube-system/").replace(NODES, "node ")


def _lease_style(one: Lease) -> str:
    return _gap_style(one, one.since)


def _gap_style(one: Lease, gap: float) -> str:
    share = gap / _limit(one)
    return "bold red" if share >= 1 else "yellow" if share >= 0.5 else ""

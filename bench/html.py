"""A result as one HTML page that needs nothing else: no script, no style sheet, no font from anywhere."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee4; --page: #fff; --card: #f6f8fa;
  --ours: #0b6bcb; --theirs: #9aa5b1; --good: #1a7f37; --bad: #b35900; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #30363d; --page: #0d1117;
  --card: #161b22; --ours: #58a6ff; --theirs: #6b7683; --good: #56d364; --bad: #e3a04f; } }
* { box-sizing: border-box } body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem } h1 { font-size: 1.6rem; margin: 0 }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem } .soft { color: var(--soft) }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; margin: 1rem 0 }
h3 { font-size: 1rem; margin: 0 0 .5rem } table { border-collapse: collapse; width: 100%; font-size: .9rem }
.wide { overflow-x: auto } th, td { text-align: right; padding: .25rem .5rem; border-top: 1px solid var(--line);
  white-space: nowrap; font-variant-numeric: tabular-nums } th:first-child, td:first-child { text-align: left }
thead th { border-top: 0; color: var(--soft); font-weight: 500 } .ours td { color: var(--ours); font-weight: 600 }
.good { color: var(--good) } .bad { color: var(--bad) } caption { text-align: left; color: var(--soft) }
svg { width: 100%; height: auto; display: block; margin: .25rem 0 .75rem }
svg text { fill: var(--ink); font-size: 13px }
pre { overflow-x: auto; font-size: .8rem } details { margin: .5rem 0 }
"""


def page(result: Json) -> str:
    """The page for what bench/report.py keeps."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    machine = result["machine"]
    settings = result["settings"]
    body = [
        "<h1>lbproxy beside nginx and HAProxy</h1>",
        f'<p class="soft">{_text(result["started"])} · {_text(versions)}<br>{machine["cpus"]} CPUs '
        f"({_text(machine['cpu'])}) · {settings['connections']} connections, one worker each, "
        f"{settings['rounds']} rounds of {settings['seconds']} s, preset {_text(result['preset'])}</p>",
        _verdict(result),
        "<h2>CPU per operation</h2>",
        '<p class="soft">All processes of a contender, kernel work included. Bars are medians, whiskers go from the '
        "lowest to the highest run. Latency and rates of this part are taken at full load and say little on two "
        "cores: bench/README.md.</p>"
        if result["summary"]
        else "",
        *(_scenario(name, rows) for name, rows in _grouped(result["summary"], "scenario")),
        "<h2>Streams, memory, latency by the clock</h2>" if result["trial_summary"] else "",
        *(_trial(rows) for _name, rows in _grouped(result["trial_summary"], "trial")),
        "<h2>Configurations</h2>" if result["configurations"] else "",
        *(_configuration(name, text) for name, text in result["configurations"].items()),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>lbproxy load tests</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _verdict(result: Json) -> str:
    """Where lbproxy is ahead, where it is behind, and what went wrong: before any picture."""
    ahead: list[str] = []
    behind: list[str] = []
    for row in result["summary"]:
        if row["family"] == "lbproxy" and row["cpu_ratio"] is not None:
            (ahead if row["cpu_ratio"] <= 1 else behind).append(f"{row['scenario']} {row['cpu_ratio']:.2f}")
    missed = [row["title"] for row in result["trial_summary"] if row["met"] is False]
    said = [f"<p><b>Cheaper than nginx:</b> {_text(', '.join(ahead) or 'nowhere')}.</p>"]
    said.append(f"<p><b>Dearer than nginx:</b> {_text(', '.join(behind) or 'nowhere')}.</p>")
    if missed:
        said.append(f'<p class="bad"><b>Aims not reached:</b> {_text("; ".join(missed))}.</p>')
    for name, why in result["failed"].items():
        said.append(f'<p class="bad"><b>{_text(name)}</b> failed: {_text(why[:200])}</p>')
    if result["interrupted"]:
        said.append('<p class="bad">The run was interrupted.</p>')
    return f"<section>{''.join(said)}</section>"


def _grouped(rows: Sequence[Json], key: str) -> Iterator[tuple[str, list[Json]]]:
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    yield from groups.items()


def _scenario(name: str, rows: list[Json]) -> str:
    bars = [(row["family"], row["cpu_us"]) for row in rows if row["cpu_us"] is not None]
    heads = ("", "CPU µs/op", "÷ nginx", "op/s", "p50 µs", "p99 µs", "noisy", "errors")
    cells = [
        (
            row["family"],
            _number(row["cpu_us"]["median"]) if row["cpu_us"] else "–",
            _ratio(row["cpu_ratio"]),
            _number(row["operations_per_second"]["median"]),
            _number(row["p50_us"]["median"]),
            _number(row["p99_us"]["median"]),
            f"{row['noisy']}/{row['runs']}",
            str(row["errors"]),
        )
        for row in rows
    ]
    return f"<section><h3>{_text(name)}</h3>{_bars(name, bars, 'µs')}{_table(name, heads, cells)}</section>"


def _trial(rows: list[Json]) -> str:
    first = rows[0]
    title = f"{first['trial']}: {first['title']}"
    ours = next((row for row in rows if row["met"] is not None), None)
    aim = ""
    if ours is not None:
        word = '<span class="good">reached</span>' if ours["met"] else '<span class="bad">not reached</span>'
        aim = f'<p class="soft">Aim {ours["reach"]:g}, dream {ours["dream"] or ours["reach"]:g}: {word}.</p>'
    details = sorted({name for row in rows for name in row["details"]})
    heads = ("", first["unit"], "÷ nginx", *details, "errors")
    cells = [
        (
            row["family"],
            _number(row["value"]["median"]),
            _ratio(row["ratio"]),
            *(_number(row["details"][name]) if name in row["details"] else "–" for name in details),
            str(row["errors"]),
        )
        for row in rows
    ]
    bars = [(row["family"], row["value"]) for row in rows]
    shown = _bars(title, bars, first["unit"]) + _table(title, heads, cells)
    return f"<section><h3>{_text(title)}</h3>{aim}{shown}</section>"


def _bars(title: str, bars: Sequence[tuple[str, Json]], unit: str) -> str:
    """Horizontal bars with whiskers. The numbers are in the table below: the picture is for the eye."""
    most = max((value["high"] for _name, value in bars), default=0)
    if most <= 0:
        return ""
    left, width, step = 130, 480, 24
    parts = []
    for row, (name, value) in enumerate(bars):
        y = row * step
        low, middle, high = (left + width * max(value[key], 0) / most for key in ("low", "median", "high"))
        color = "var(--ours)" if name == "lbproxy" else "var(--theirs)"
        parts.append(
            f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{_text(name)}</text>'
            f'<rect x="{left}" y="{y + 4}" width="{max(middle - left, 1):.1f}" height="16" rx="3" fill="{color}"/>'
            f'<path d="M{low:.1f} {y + 12}H{high:.1f}" stroke="var(--ink)" stroke-width="1.5"/>'
            f'<text x="{high + 6:.1f}" y="{y + 16}">{_number(value["median"])}</text>'
        )
    size = f"0 0 {left + width + 70} {len(bars) * step + 4}"
    label = _text(f"{title}, {unit}")
    return f'<svg viewBox="{size}" role="img" aria-label="{label}"><title>{label}</title>{"".join(parts)}</svg>'


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(word)}</th>' for word in heads)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in row)
        lines.append(f'<tr class="{"ours" if row[0] == "lbproxy" else ""}">{cells}</tr>')
    return (
        f'<div class="wide"><table><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _configuration(name: str, text: str) -> str:
    return f"<details><summary>{_text(name)}</summary><pre>{_text(text)}</pre></details>"


def _number(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _text(value: object) -> str:
    return html.escape(str(value))

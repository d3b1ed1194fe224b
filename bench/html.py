"""A result as one HTML page that needs nothing else: no script, no style sheet, no font from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.network import in_words
from bench.plots import Json, Ratios, bars, number, overview, text
from bench.scenarios import SCENARIOS

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #dfe4ea; --page: #f4f6f8; --card: #fff;
  --ours: #0b6bcb; --nginx: #8d99a6; --haproxy: #c98a2b; --theirs: #b9c2cc; --good: #1a7f37; --bad: #b03a00;
  --ahead: #0b6bcb0d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #2b323b; --page: #0d1117;
  --card: #161b22; --ours: #4c9dff; --nginx: #7d8896; --haproxy: #d9a04a; --theirs: #4f5a66; --good: #56d364;
  --bad: #ff9b5e; --ahead: #4c9dff14; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em }
h2 { font-size: 1.3rem; margin: 3rem 0 .25rem } .soft { color: var(--soft); margin: .25rem 0; max-width: 56rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.1rem 1.25rem }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
  margin: 1rem 0; align-items: start }
.all { margin: 1rem 0 } .all p { margin: .35rem 0 }
h3 { font-size: 1rem; margin: 0 }
.sub { display: flex; flex-wrap: wrap; gap: 0 1rem; justify-content: space-between; margin: 0 0 .6rem;
  font-size: .85rem; color: var(--soft) }
.mark { font-weight: 650; white-space: nowrap }
.good { color: var(--good) } .bad { color: var(--bad) }
.chips { display: flex; flex-wrap: wrap; gap: .4rem; margin: .75rem 0 0; padding: 0; list-style: none }
.chips li { border: 1px solid var(--line); background: var(--card); border-radius: 2rem; padding: .1rem .7rem;
  font-size: .85rem; color: var(--soft) }
.key { display: flex; flex-wrap: wrap; gap: 1.1rem; font-size: .85rem; color: var(--soft); margin: .5rem 0 0 }
.key b { font-weight: 400 } .key svg { display: inline; width: 14px; height: 14px; margin: 0 .35rem -2px 0 }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--ink); font-size: 14px }
svg .small { fill: var(--soft); font-size: 12px } svg .grid { stroke: var(--line); fill: none }
svg .base { stroke: var(--nginx); stroke-width: 2; fill: none } svg .ahead { fill: var(--ahead) }
svg .aim { stroke: var(--good); stroke-width: 1.5; stroke-dasharray: 4 3; fill: none }
svg .whisker { stroke: var(--ink); stroke-opacity: .65; fill: none }
table { border-collapse: collapse; width: 100%; font-size: .85rem } .wide { overflow-x: auto }
th, td { text-align: right; padding: .25rem .5rem; border-top: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums } th:first-child, td:first-child { text-align: left; padding-left: 0 }
thead th { border-top: 0; color: var(--soft); font-weight: 500 } .ours td { color: var(--ours); font-weight: 600 }
details { margin: .6rem 0 0 } summary { cursor: pointer; color: var(--soft); font-size: .85rem }
pre { overflow-x: auto; font-size: .8rem }
"""
_KEY = (
    '<p class="key"><b><svg viewBox="0 0 14 14"><circle cx="7" cy="7" r="6" fill="var(--ours)"/></svg>lbproxy</b>'
    '<b><svg viewBox="0 0 14 14"><path d="M7 0v14" class="base"/></svg>nginx, tuned</b>'
    '<b><svg viewBox="0 0 14 14"><path d="M7 1l6 6l-6 6l-6 -6z" fill="var(--haproxy)"/></svg>HAProxy</b>'
    '<b><svg viewBox="0 0 14 14"><circle cx="7" cy="7" r="4" fill="none" stroke="var(--nginx)" stroke-width="2"/></svg>'
    "other configurations of them</b>"
    '<b><svg viewBox="0 0 14 14"><path d="M7 0v14" class="aim"/></svg>aim</b></p>'
)
_TITLES = {scenario.name: scenario for scenario in SCENARIOS}


def page(result: Json) -> str:
    """The page for what bench/report.py keeps."""
    machine, settings = result["machine"], result["settings"]
    chips = [
        result["started"],
        *(f"{name} {version}" for name, version in result["versions"].items()),
        f"{machine['cpus']} CPUs, {machine['cpu']}",
        *([network] if (network := in_words(machine)) else []),
        f"{settings['rounds']} rounds of {settings['seconds']} s, {settings['connections']} connections, one worker",
        f"preset {result['preset']}",
    ]
    scenarios, trials = result["summary"], result["trial_summary"]
    body = [
        "<h1>lbproxy beside nginx and HAProxy</h1>",
        '<p class="soft">The same load, backends and CPU for everybody, in turns. CPU time counts all processes of a '
        "contender, the kernel’s work for them included.</p>",
        f'<ul class="chips">{"".join(f"<li>{text(chip)}</li>" for chip in chips)}</ul>',
        _verdict(result),
        "<h2>CPU per operation, µs</h2>" if scenarios else "",
        '<p class="soft">Bars are medians, whiskers go from the lowest to the highest run. Rates and latencies in the '
        "details are taken at full load, which on two cores says little.</p>"
        if scenarios
        else "",
        f'<div class="grid">{"".join(_scenario(name, rows) for name, rows in _grouped(scenarios, "scenario"))}</div>',
        "<h2>Streams, memory, latency by the clock</h2>" if trials else "",
        f'<div class="grid">{"".join(_trial(rows) for _name, rows in _grouped(trials, "trial"))}</div>',
        "<h2>Configurations</h2>" if result["configurations"] else "",
        *(_configuration(name, said) for name, said in result["configurations"].items()),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>lbproxy load tests</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _verdict(result: Json) -> str:
    """Where lbproxy is ahead, where it is behind, and what went wrong: before anything else."""
    ahead: list[str] = []
    behind: list[str] = []
    lines = []
    for name, rows in _grouped(result["summary"], "scenario"):
        found = {row["family"]: row["cpu_ratio"] for row in rows if row["cpu_ratio"] is not None}
        aim = _TITLES[name].reach if name in _TITLES else None
        lines.append(Ratios(_title(name), found, aim))
        if "lbproxy" in found:
            (ahead if found["lbproxy"] <= 1 else behind).append(f"{name} {found['lbproxy']:.2f}")
    for name, rows in _grouped(result["trial_summary"], "trial"):
        found = {row["family"]: row["ratio"] for row in rows if row["ratio"] is not None}
        if name == "watch":
            lines.append(Ratios("http: a watch event", found, rows[0]["reach"]))
    said = [f"<p><b>Cheaper than nginx:</b> {text(', '.join(ahead) or 'nowhere')}.</p>"] if lines else []
    if lines:
        said.append(f"<p><b>Dearer than nginx:</b> {text(', '.join(behind) or 'nowhere')}.</p>")
    if missed := _missed(result):
        said.append(f'<p class="bad"><b>Aims not reached:</b> {text("; ".join(missed))}.</p>')
    for name, why in result["failed"].items():
        said.append(f'<p class="bad"><b>{text(name)}</b> failed: {text(why[:200])}</p>')
    if result["interrupted"]:
        said.append('<p class="bad">The run was interrupted.</p>')
    said += [f'<p class="soft">{text(note)}</p>' for note in result.get("notes", ())]
    said += [
        f'<p class="soft">Taken again: {text(name)}: {text(why[:200])}</p>'
        for name, why in result.get("repeated", {}).items()
    ]
    picture = overview(lines)
    return f'<section class="all">{picture}{_KEY if picture else ""}{"".join(said)}</section>'


def _missed(result: Json) -> list[str]:
    scenarios = [
        _title(row["scenario"])
        for row in result["summary"]
        if row["family"] == "lbproxy" and _reached(row) is False
    ]  # fmt: skip
    return [*scenarios, *(row["title"] for row in result["trial_summary"] if row["met"] is False)]


def _reached(row: Json) -> bool | None:
    scenario = _TITLES.get(row["scenario"])
    if scenario is None or row["cpu_ratio"] is None:
        return None
    return bool(row["cpu_ratio"] <= scenario.reach)


def _title(name: str) -> str:
    return _TITLES[name].title if name in _TITLES else name


def _grouped(rows: Sequence[Json], key: str) -> Iterator[tuple[str, list[Json]]]:
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    yield from groups.items()


def _scenario(name: str, rows: list[Json]) -> str:
    found = [(row["family"], row["cpu_us"]) for row in rows if row["cpu_us"] is not None]
    heads = ("", "CPU µs/op", "÷ nginx", "op/s", "p50 µs", "p99 µs", "noisy", "errors")
    cells = [
        (
            row["family"],
            number(row["cpu_us"]["median"]) if row["cpu_us"] else "–",
            _ratio(row["cpu_ratio"]),
            number(row["operations_per_second"]["median"]),
            number(row["p50_us"]["median"]),
            number(row["p99_us"]["median"]),
            f"{row['noisy']}/{row['runs']}",
            str(row["errors"]),
        )
        for row in rows
    ]
    ours = next((row for row in rows if row["family"] == "lbproxy"), None)
    aim = _aim(_reached(ours), _TITLES[name].reach, "× nginx") if ours and name in _TITLES else ""
    title = _title(name)
    return _card(title, f"<span>{text(name)}, µs</span>{aim}", bars(title, found, "µs"), heads, cells)


def _trial(rows: list[Json]) -> str:
    first = rows[0]
    ours = next((row for row in rows if row["met"] is not None), None)
    relative = ours is not None and first["trial"].startswith(("watch", "latency"))
    mark = f"<span>{text(first['trial'])}, {text(first['unit'])}</span>"
    if ours is not None:
        mark += _aim(ours["met"], ours["reach"], "× nginx" if relative else first["unit"])
    details = sorted({name for row in rows for name in row["details"]})
    heads = ("", first["unit"], "÷ nginx", *details, "noisy", "errors")
    cells = [
        (
            row["family"],
            number(row["value"]["median"]),
            _ratio(row["ratio"]),
            *(number(row["details"][name]) if name in row["details"] else "–" for name in details),
            f"{row.get('noisy', 0)}/{row['runs']}",
            str(row["errors"]),
        )
        for row in rows
    ]
    aim = ours["reach"] if ours is not None and not relative else None
    picture = bars(first["title"], [(row["family"], row["value"]) for row in rows], first["unit"], aim)
    return _card(first["title"], mark, picture, heads, cells)


def _aim(reached: bool | None, reach: float, unit: str) -> str:
    if reached is None:
        return ""
    word, kind = ("reached", "good") if reached else ("not reached", "bad")
    return f'<span class="mark {kind}">aim {reach:g} {text(unit)}: {word}</span>'


def _card(title: str, mark: str, picture: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    picture = picture or '<p class="soft">Zero for everybody.</p>'
    shown = f"<details><summary>Figures</summary>{_table(heads, rows)}</details>"
    return f'<section><h3>{text(title)}</h3><p class="sub">{mark}</p>{picture}{shown}</section>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{text(word)}</th>' for word in heads)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{text(cell)}</td>" for cell in row)
        lines.append(f'<tr class="{"ours" if row[0] == "lbproxy" else ""}">{cells}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _configuration(name: str, said: str) -> str:
    return f"<details><summary>{text(name)}</summary><pre>{text(said)}</pre></details>"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

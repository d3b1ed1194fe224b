"""The page's pictures: inline SVG, coloured by the page's variables, so that they are light or dark as it is."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

_LABEL, _BARS, _STEP = 132, 320, 25
_NAMES, _SCALE, _ROW, _TOP = 300, 480, 30, 46


@dataclass(frozen=True, slots=True)
class Ratios:
    """A line of the overview: who is how far from nginx, and what is aimed at."""

    name: str
    found: Mapping[str, float]  # family: ratio
    reach: float | None


def color(family: str) -> str:
    """lbproxy stands out, each rival keeps its colour, variants have their family's."""
    known = {"lbproxy": "ours", "nginx": "nginx", "haproxy": "haproxy"}
    return f"var(--{known.get(family.partition('-')[0], 'theirs')})"


def bars(title: str, found: Sequence[tuple[str, Json]], unit: str, aim: float | None = None) -> str:
    """Horizontal bars with whiskers from the lowest to the highest run, and a line at what is aimed at."""
    most = max((value["high"] for _name, value in found), default=0)
    if most <= 0:
        return ""
    shown_aim = aim if aim is not None and aim <= 3 * most else None
    most = max(most, shown_aim or 0)
    parts = []
    for row, (name, value) in enumerate(found):
        y = row * _STEP + 4
        low, middle, high = (_LABEL + _BARS * max(value[key], 0) / most for key in ("low", "median", "high"))
        weight = ' font-weight="650"' if name == "lbproxy" else ""
        opacity = ' opacity=".55"' if "-" in name else ""
        parts.append(
            f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end"{weight}>{text(name)}</text>'
            f'<rect x="{_LABEL}" y="{y + 1}" width="{max(middle - _LABEL, 1.5):.1f}" height="17" rx="3" '
            f'fill="{color(name)}"{opacity}/>'
            f'<path d="M{low:.1f} {y + 9.5}H{high:.1f}M{low:.1f} {y + 6}v7M{high:.1f} {y + 6}v7" class="whisker"/>'
            f'<text x="{high + 7:.1f}" y="{y + 14}"{weight}>{number(value["median"])}</text>'
        )
    height = len(found) * _STEP + 6
    if shown_aim is not None:
        x = _LABEL + _BARS * shown_aim / most
        parts.append(f'<path d="M{x:.1f} 0V{height}" class="aim"/>')
        parts.append(f'<text x="{x:.1f}" y="{height + 12}" text-anchor="middle" class="small">aim {aim:g}</text>')
        height += 16
    return _svg(f"{title}, {unit}", _LABEL + _BARS + 72, height, parts)


def overview(lines: Sequence[Ratios]) -> str:
    """Everything that is compared with nginx in one picture: a logarithmic scale, nginx is the line at 1."""
    every = [ratio for line in lines for ratio in line.found.values()]
    if not every:
        return ""
    low = min(0.5, 2 ** math.floor(math.log2(max(min(every), 1 / 64))))
    high = max(2.0, 2 ** math.ceil(math.log2(min(max(every), 64))))

    def x(ratio: float) -> float:
        share = math.log2(min(max(ratio, low), high) / low) / math.log2(high / low)
        return _NAMES + _SCALE * share

    bottom = _TOP + len(lines) * _ROW
    parts = [
        f'<rect x="{_NAMES}" y="{_TOP - 8}" width="{x(1) - _NAMES:.1f}" height="{bottom - _TOP + 8}" class="ahead"/>',
        f'<text x="{x(1) - 8:.1f}" y="14" text-anchor="end" class="small">← cheaper than nginx</text>',
        f'<text x="{x(1) + 8:.1f}" y="14" class="small">dearer →</text>',
    ]
    mark = low
    while mark <= high:
        kind = "base" if mark == 1 else "grid"
        parts.append(f'<path d="M{x(mark):.1f} {_TOP - 8}V{bottom}" class="{kind}"/>')
        parts.append(f'<text x="{x(mark):.1f}" y="{_TOP - 14}" text-anchor="middle" class="small">{mark:g}×</text>')
        mark *= 2
    for row, line in enumerate(lines):
        parts += _line(line, _TOP + row * _ROW + _ROW // 2, x)
    return _svg("lbproxy and HAProxy compared with nginx", _NAMES + _SCALE + 70, bottom + 6, parts)


def _line(line: Ratios, y: int, x: Any) -> list[str]:
    parts = [
        f'<path d="M0 {y + _ROW // 2}H{_NAMES + _SCALE + 70}" class="grid"/>',
        f'<text x="{_NAMES - 14}" y="{y + 5}" text-anchor="end">{text(line.name)}</text>',
    ]
    if line.reach is not None:
        parts.append(f'<path d="M{x(line.reach):.1f} {y - 9}v18" class="aim"><title>aim {line.reach:g}</title></path>')
    for family, ratio in line.found.items():
        if family in ("lbproxy", "nginx"):
            continue
        shown = f"<title>{text(family)} {ratio:.2f}</title>"
        at = x(ratio)
        if family == "haproxy":
            parts.append(f'<path d="M{at:.1f} {y - 6}l6 6l-6 6l-6 -6z" fill="var(--haproxy)">{shown}</path>')
        else:
            parts.append(f'<circle cx="{at:.1f}" cy="{y}" r="4" fill="none" stroke="{color(family)}" '
                         f'stroke-width="2">{shown}</circle>')  # fmt: skip
    if (ours := line.found.get("lbproxy")) is not None:
        parts.append(f'<circle cx="{x(ours):.1f}" cy="{y}" r="7.5" fill="var(--ours)"><title>lbproxy {ours:.2f}</title>'
                     f'</circle><text x="{_NAMES + _SCALE + 62}" y="{y + 5}" text-anchor="end" font-weight="650">'
                     f"{ours:.2f}</text>")  # fmt: skip
    return parts


def _svg(label: str, width: int, height: int, parts: Sequence[str]) -> str:
    said = text(label)
    box = f"0 0 {width} {height}"
    return f'<svg viewBox="{box}" role="img" aria-label="{said}"><title>{said}</title>{"".join(parts)}</svg>'


def number(value: float) -> str:
    """As many digits as mean something."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def text(value: object) -> str:
    """Nothing that a program said is markup."""
    return html.escape(str(value))

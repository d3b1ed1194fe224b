"""Numbers, bars and marks of `lbproxy top`, each as short as can be."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from lbproxy.admin.top.model import Check

LATENCIES = (1, 3, 10, 30, 100, 300, 1000)  # milliseconds at which the bar of a check is one higher


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What a terminal can show."""

    bars: str  # eight of them, growing
    marks: dict[str, str]  # of a verdict
    bad_check: dict[str, str]  # of a check that is not up
    ellipsis: str
    cursor: str
    dot: str
    rule: str
    arrows: str


UNICODE = Glyphs(
    bars="▁▂▃▄▅▆▇█",
    marks={"up": "●", "not_ready": "◐", "down": "✗", "drain": "◌", "maint": "◌", "unknown": "○"},
    bad_check={"not_ready": "!", "down": "✗", "none": "·"},
    ellipsis="…",
    cursor="▸",
    dot="·",
    rule="─",
    arrows="↑↓",
)
ASCII = Glyphs(
    bars="...::||#",
    marks={"up": "+", "not_ready": "!", "down": "x", "drain": "-", "maint": "-", "unknown": "?"},
    bad_check={"not_ready": "!", "down": "x", "none": "."},
    ellipsis="~",
    cursor=">",
    dot="-",
    rule="-",
    arrows="j k",
)


def count(number: float) -> str:
    """In five letters: 9,999, 12.3k, 123k, 1.2M."""
    if number < 10_000:
        return f"{number:,.0f}"
    for size, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if number < 999.5 * size:
            return f"{number / size:.{0 if number >= 99.95 * size else 1}f}{unit}"
    return f"{number / 1e12:.0f}T"


def rate(number: float | None) -> str:
    """Per second."""
    if number is None:
        return "-"
    return f"{number:.1f}" if 0 < number < 9.95 else count(number)


def size(number: float | None) -> str:
    """Bytes: 999B, 1.5K, 120M."""
    if number is None:
        return "-"
    if number < 1000:
        return f"{number:.0f}B" if number else "0"
    for power, unit in enumerate("KMGT", 1):
        value = number / 1024**power
        if value < 999.5:
            return f"{value:.{1 if value < 9.95 else 0}f}{unit}"
    return f"{number / 1024**5:.0f}P"


def seconds(number: float) -> str:
    """A duration where a tenth matters at first: 0.3s, 12s, 5m."""
    return f"{number:.1f}s" if number < 10 else span(number)


def span(number: float) -> str:
    """A duration in four letters at most: 119s, 99m, 47h, 300d."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if number >= 2 * unit:
            return f"{number // unit:.0f}{name}"
    return f"{max(number, 0):.0f}s"


def verdict(word: str) -> str:
    """As people say it."""
    return word.replace("_", " ")


def fit(text: str, width: int, glyphs: Glyphs) -> str:
    """A text in so many cells at most; what is left out is marked."""
    if cell_len(text) <= width:
        return text
    return "" if width < 1 else set_cell_size(text, width - 1) + glyphs.ellipsis


def fit_middle(text: str, width: int, glyphs: Glyphs) -> str:
    """As fit(), but the end is kept too: of an address it is the port."""
    if cell_len(text) <= width or width < 8:
        return fit(text, width, glyphs)
    tail = text[-((width - 1) // 2) :]
    if cell_len(tail) != len(tail):  # letters that are two cells wide, and none of an address
        return fit(text, width, glyphs)
    return set_cell_size(text, width - 1 - len(tail)) + glyphs.ellipsis + tail


def bar(one: Check, glyphs: Glyphs) -> str:
    """A check: as high as it took long, or why it is not up."""
    if one.verdict != "up":
        return glyphs.bad_check.get(one.verdict, "?")
    return glyphs.bars[bisect(LATENCIES, one.latency_ms)]


def spark(numbers: Sequence[float], width: int, glyphs: Glyphs) -> str:
    """The last numbers as bars between zero and the largest of them."""
    shown = numbers[-width:] if width > 0 else ()
    most = max(shown, default=0.0)
    last = len(glyphs.bars) - 1
    return "".join(glyphs.bars[round(number / most * last) if most else 0] for number in shown)

"""The page's pictures: well-formed, to scale, and with everybody in them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.plots import Ratios, bars, number, overview


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def widths(svg: str) -> list[float]:
    return [float(rect.attrib["width"]) for rect in drawn(svg).iter("rect")]


def test_bars_are_to_scale() -> None:
    found = [(name, {"low": value, "median": value, "high": value}) for name, value in (("lbproxy", 10), ("nginx", 20))]
    short, long = widths(bars("cost", found, "µs"))
    assert long == pytest.approx(2 * short)
    with_aim = bars("cost", found, "µs", aim=40.0)
    assert widths(with_aim)[1] == pytest.approx(long / 2)  # the aim is in the picture
    assert "aim 40" in with_aim
    assert "aim" not in bars("cost", found, "µs", aim=4000.0)  # or not, where it would make all else invisible


def test_a_value_below_zero_is_no_picture_upside_down() -> None:
    """The access log's cost is a difference, and may come out below zero."""
    assert widths(bars("log", [("nginx", {"low": -2, "median": -1, "high": 3})], "µs")) == [1.5]
    assert bars("log", [("nginx", {"low": -2, "median": -1, "high": 0})], "µs") == ""


def test_the_overview_is_logarithmic_with_nginx_at_one() -> None:
    lines = [Ratios("half & double", {"lbproxy": 0.5, "nginx": 1.0, "haproxy": 2.0, "nginx-seed": 4.0}, 1.2)]
    svg = overview(lines)
    drawn(svg)
    ours = float(re.search(r'<circle cx="([\d.]+)" cy="\d+" r="7.5"', svg)[1])  # type: ignore[index]
    seed = float(re.search(r'<circle cx="([\d.]+)" cy="\d+" r="4"', svg)[1])  # type: ignore[index]
    base = float(re.search(r'd="M([\d.]+) \d+V\d+" class="base"', svg)[1])  # type: ignore[index]
    assert seed - base == pytest.approx(2 * (base - ours), abs=0.2)
    assert "half &amp; double" in svg


def test_nothing_compared_is_no_overview() -> None:
    assert overview([]) == ""


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (3.0, "3"), (1.234, "1.23"), (26.24, "26.2"), (12345.6, "12,346"), (-0.5, "-0.50")]
)
def test_numbers_have_the_digits_that_mean_something(value: float, said: str) -> None:
    assert number(value) == said

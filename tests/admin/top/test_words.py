"""Numbers in few letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from lbproxy.admin.top.model import Check
from lbproxy.admin.top.words import ASCII, UNICODE, bar, count, fit, fit_middle, rate, seconds, size, span, spark


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (99_949, "99.9k"),
        (99_950, "100k"),
        (999_600, "1.0M"),
        (5e9, "5.0G"),
    ],
)
def test_count(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "-"), (0, "0"), (0.04, "0.0"), (3.25, "3.2"), (9.96, "10"), (12345, "12.3k")]
)
def test_rate(number: float | None, text: str) -> None:
    assert rate(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0"), (999, "999B"), (1000, "1.0K"), (1536, "1.5K"), (10 * 1024, "10K"), (2**30, "1.0G")],
)
def test_size(number: float | None, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(-1, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d")]
)
def test_span(number: float, text: str) -> None:
    assert span(number) == text


def test_seconds_have_a_tenth_where_it_matters() -> None:
    assert [seconds(number) for number in (0.26, 9.9, 12.3, 300)] == ["0.3s", "9.9s", "12s", "5m"]


@given(st.floats(0, 1e13))
def test_numbers_fit_into_their_columns(number: float) -> None:
    assert len(count(number)) <= 6
    assert len(rate(number)) <= 6
    assert len(size(number)) <= 5


@given(st.text(), st.integers(0, 40))
def test_what_is_cut_is_never_wider(text: str, width: int) -> None:
    for cut in (fit(text, width, UNICODE), fit_middle(text, width, UNICODE)):
        assert cell_len(cut) <= max(width, 0)


def test_what_is_cut_in_the_middle_keeps_its_port() -> None:
    assert fit_middle("[2001:db8:1234::5678:9abc]:6443", 17, UNICODE) == "[2001:db…bc]:6443"
    assert fit_middle("10.0.0.1:6443", 17, ASCII) == "10.0.0.1:6443"


def test_a_check_is_a_bar_or_the_reason_why_there_is_none() -> None:
    shown = [Check("up", 0.5), Check("up", 20), Check("up", 5000), Check("not_ready", 1), Check("down", 1)]
    assert "".join(bar(one, UNICODE) for one in shown) == "▁▄█!✗"
    assert "".join(bar(one, ASCII) for one in shown) == ".:#!x"
    assert bar(Check("something new", 1), UNICODE) == "?"


def test_a_spark_is_as_high_as_its_part_of_the_highest() -> None:
    assert spark((0, 7, 14), 10, UNICODE) == "▁▅█"
    assert spark((100, 0, 0), 2, UNICODE) == "▁▁"
    assert spark((1, 2), 0, UNICODE) == spark((1, 2), -3, UNICODE) == ""

"""What --only, --scenarios and --contenders choose."""

from __future__ import annotations

import pytest

from bench.contenders import FAMILIES, contenders
from bench.scenarios import SCENARIOS
from bench.selection import Selection, select

EVERYONE = contenders()


def chosen(*, only: str = "", scenarios: str = "", among: str = "") -> tuple[list[str], list[str]]:
    selection: Selection = select(SCENARIOS, EVERYONE, [scenarios], [among], [only])
    return [each.name for each in selection.scenarios], [each.name for each in selection.contenders]


def test_nothing_said_is_everything() -> None:
    assert chosen() == ([each.name for each in SCENARIOS], [each.name for each in EVERYONE])


def test_every_contender_has_its_place_in_the_table() -> None:
    assert {each.family for each in EVERYONE} == set(FAMILIES)


def test_one_scenario_and_families() -> None:
    expected = (["tcp-keepalive"], ["lbproxy-tcp", "nginx-stream"])
    assert chosen(only="tcp-keepalive", among="lbproxy,nginx-stream") == expected


def test_a_family_takes_part_in_both_modes() -> None:
    assert chosen(scenarios="*-keepalive", among="haproxy")[1] == ["haproxy-tcp", "haproxy-http"]


def test_variants_for_bulk_take_part_in_bulk_alone() -> None:
    assert "haproxy-tcp-splice" not in chosen(only="tcp-keepalive")[1]
    assert "haproxy-tcp-splice" in chosen(only="tcp-1m")[1]


def test_only_takes_scenarios_and_contenders_together() -> None:
    names, taking_part = chosen(only="1m,lbproxy")
    assert names == ["tcp-1m", "http-1m"]
    assert taking_part == ["lbproxy-tcp", "lbproxy-http"]


def test_scenarios_without_a_contender_are_left_out() -> None:
    assert chosen(among="nginx-stream")[0] == ["tcp-keepalive", "tcp-connection", "tcp-1m"]


@pytest.mark.parametrize("wrong", [{"only": "tpc"}, {"scenarios": "nginx"}, {"among": "tcp-1m"}])
def test_a_pattern_that_matches_nothing_is_an_error(wrong: dict[str, str]) -> None:
    with pytest.raises(LookupError, match="nothing is called"):
        chosen(**wrong)


def test_nothing_left_to_run_is_an_error() -> None:
    with pytest.raises(LookupError, match="takes part"):
        chosen(scenarios="tcp-1m", among="nginx-http")

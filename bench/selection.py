"""Which scenarios and which contenders: what --only, --scenarios and --contenders mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench.contenders import Contender
from bench.field import takes_part
from bench.scenarios import Scenario


@dataclass(frozen=True, slots=True)
class Selection:
    scenarios: Sequence[Scenario]
    contenders: Sequence[Contender]


def select(
    scenarios: Sequence[Scenario],
    contenders: Sequence[Contender],
    of_scenarios: Iterable[str] = (),
    of_contenders: Iterable[str] = (),
    of_either: Iterable[str] = (),
) -> Selection:
    """Those that match; no pattern selects all. A pattern of either kind means scenarios if any of them matches.

    Raises LookupError: a pattern matches nothing, or nothing is left to run.
    """
    wanted_scenarios = _split(of_scenarios)
    wanted_contenders = _split(of_contenders)
    for pattern in _split(of_either):
        is_scenario = any(matches(pattern, scenario.name) for scenario in scenarios)
        (wanted_scenarios if is_scenario else wanted_contenders).append(pattern)
    for pattern in wanted_scenarios:
        _require(pattern, {each.name for each in scenarios})
    for pattern in wanted_contenders:
        _require(pattern, {name for each in contenders for name in (each.name, each.family)})

    chosen = [each for each in scenarios if _any(wanted_scenarios, each.name)]
    taking_part = [
        each
        for each in contenders
        if _any(wanted_contenders, each.name, each.family) and any(takes_part(each, one) for one in chosen)
    ]
    left = [each for each in chosen if any(takes_part(contender, each) for contender in taking_part)]
    if not left:
        raise LookupError("none of these contenders takes part in any of these scenarios")
    return Selection(left, taking_part)


def _split(patterns: Iterable[str]) -> list[str]:
    return [word for pattern in patterns for word in pattern.split(",") if word]


def _any(patterns: Sequence[str], *names: str) -> bool:
    return not patterns or any(matches(pattern, name) for pattern in patterns for name in names)


def matches(pattern: str, name: str) -> bool:
    """A glob for the whole name, or a part of it."""
    return fnmatchcase(name, pattern) if any(sign in pattern for sign in "*?[") else pattern in name


def _require(pattern: str, names: set[str]) -> None:
    if not _any([pattern], *names):
        raise LookupError(f"nothing is called {pattern!r}; there are {', '.join(sorted(names))}")

"""Results as a table for people."""

from __future__ import annotations

from collections.abc import Mapping

from tests.cluster.chaos.faults import scenarios
from tests.cluster.chaos.outcome import READS, WRITES, Outcome

COLUMNS = (
    "", "errors: reads", "writes", "watches", "LISTs", "events missed", "doubled", "mutations doubled", "lost",
    "longest lease gap, s", "leaders lost", "all well after, s",
)  # fmt: skip


def markdown(results: Mapping[str, Mapping[str, Outcome]]) -> str:
    """`results` by scenario, then by contender."""
    parts: list[str] = []
    for name, outcomes in results.items():
        parts += [f"**{scenarios()[name].title}**", "", _row(COLUMNS), _row("---" for _ in COLUMNS)]
        parts += [_row([contender, *_cells(outcome)]) for contender, outcome in outcomes.items()]
        parts.append("")
    return "\n".join(parts)


def _cells(outcome: Outcome) -> list[str]:
    watchers = outcome.watchers.values()
    numbers = (
        outcome.errors(*READS),
        outcome.errors(*WRITES),
        outcome.errors("watch", "rollout"),
        sum(outcome.lists.values()),
        sum(one.missed for one in watchers),
        sum(one.doubled for one in watchers),
        outcome.mutations.doubled,
        outcome.mutations.lost,
    )
    times = (f"{outcome.lease_gap:.1f}", str(outcome.leaders_lost), f"{outcome.recovered:.1f}")
    return [*map(str, numbers), *times]


def _row(cells: object) -> str:
    return "| " + " | ".join(cells) + " |"  # type: ignore[arg-type]

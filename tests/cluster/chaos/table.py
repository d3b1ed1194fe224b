"""Results as tables for people: one of all scenarios and balancers, and one with every count for each scenario."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.cluster.chaos.contenders import contenders
from tests.cluster.chaos.faults import scenarios
from tests.cluster.chaos.outcome import READS, WRITES, Outcome

LEGEND = """\
A cell: errors that clients saw / LISTs that lost watches cost / leaders that lost their lease / seconds of trouble.
Errors are failed reads and writes, and watches whose end their user noticed. Trouble is the longest time in which there
was always a call that failed or took more than 2 s, or an event that came more than 2 s after its change.
"""
COLUMNS = (
    "", "errors: reads", "writes", "watches", "LISTs", "WATCHes", "events missed", "doubled", "mutations",
    "doubled", "lost", "longest lease gap, s", "leaders lost", "slow calls", "longest, s", "trouble, s",
)  # fmt: skip

Results = Mapping[str, Mapping[str, Outcome]]  # by scenario, then by contender


def markdown(results: Results) -> str:
    return f"{summary(results)}\n{LEGEND}\n{details(results)}"


def summary(results: Results) -> str:
    names = [name for name in contenders() if any(name in outcomes for outcomes in results.values())]
    rows = [_row(["", *names]), _row("---" for _ in range(len(names) + 1))]
    for name, scenario in scenarios().items():
        if name in results:
            outcomes = results[name]
            rows.append(_row([scenario.title, *(_brief(outcomes.get(one)) for one in names)]))
    return "\n".join(rows) + "\n"


def _brief(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    errors = outcome.errors(*READS, *WRITES, "watch", "rollout")
    return f"{errors} / {sum(outcome.lists.values())} / {outcome.leaders_lost} / {outcome.trouble:.1f}"


def details(results: Results) -> str:
    parts: list[str] = []
    for name, scenario in scenarios().items():
        if outcomes := results.get(name):
            parts += [f"**{scenario.title}**", "", _row(COLUMNS), _row("---" for _ in COLUMNS)]
            parts += [_row([one, *_cells(outcomes[one])]) for one in contenders() if one in outcomes]
            parts.append("")
    return "\n".join(parts)


def _cells(outcome: Outcome) -> list[str]:
    watchers, clients = outcome.watchers.values(), outcome.clients.values()
    return [
        str(outcome.errors(*READS)),
        str(outcome.errors(*WRITES)),
        str(outcome.errors("watch", "rollout")),
        str(sum(outcome.lists.values())),
        str(sum(outcome.watches.values())),
        str(sum(one.missed for one in watchers)),
        str(sum(one.doubled for one in watchers)),
        str(outcome.mutations.sent),
        str(outcome.mutations.doubled),
        str(outcome.mutations.lost),
        f"{outcome.lease_gap:.1f}",
        str(outcome.leaders_lost),
        str(sum(one.slow for one in clients)),
        f"{max((one.worst for one in clients), default=0.0):.1f}",
        f"{outcome.trouble:.1f}",
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

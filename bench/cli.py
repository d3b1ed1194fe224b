"""The command line of the load tests."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contenders import Contender, contenders
from bench.field import takes_part
from bench.html import page
from bench.machine import INSTALL, missing_tools
from bench.measure import Settings
from bench.scenarios import SCENARIOS
from bench.selection import Selection, matches, select
from bench.trials.measure import plays
from bench.trials.trials import TRIALS, Trial

RESULTS = Path(__file__).with_name("results")
PRESETS = {"quick": Settings(2, 1, 16), "normal": Settings(5, 2, 16), "full": Settings(5, 3, 16)}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all ran and every byte was right, 1 not so, 2 wrong usage or a missing program."""
    args = _parser().parse_args(argv)
    if args.render:
        return _render(args.render, args.html)
    everyone = contenders(shlex.split(args.lbproxy))
    try:
        selection, trials = choose(everyone, args)
    except LookupError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    if args.list:
        _print_list(selection, trials)
        return 0
    missing = missing_tools({"wrk", "nginx"} | {each.command[0] for each in selection.contenders if each.command})
    if missing:
        print(f"run.py: not installed: {', '.join(missing)}. On Debian: {INSTALL}", file=sys.stderr)
        return 2
    try:
        from bench.session import Session
    except ModuleNotFoundError as error:
        print(f"run.py: {error.name} is not installed; it is in the dependency group `bench`", file=sys.stderr)
        return 2
    return Session(
        args.preset,
        _settings(args),
        selection,
        trials,
        everyone,
        not args.no_pin,
        not args.machine_network,
        args.results,
        args.json,
        args.html,
    ).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench/run.py", description="Load lbproxy, nginx and HAProxy side by side.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="preset", action="store_const", const="quick", help="under 2 minutes")
    size.add_argument("--full", dest="preset", action="store_const", const="full", help="about 30 minutes")
    parser.set_defaults(preset="normal")
    names: dict[str, Any] = {"metavar": "PATTERN[,…]", "action": "append", "default": []}
    parser.add_argument("--only", **names, help="scenarios or contenders: a part of the name, or a glob")
    parser.add_argument("--scenarios", **names, help="the same, scenarios alone")
    parser.add_argument("--contenders", **names, help="the same, contenders alone (name or family)")
    parser.add_argument("--rounds", type=_positive, help="turns of each contender in each scenario")
    parser.add_argument("--duration", type=_positive, metavar="SECONDS", help="length of one turn")
    parser.add_argument("--connections", type=_positive, help="open connections (default 16)")
    parser.add_argument("--no-pin", action="store_true", help="let the kernel choose the CPUs")
    parser.add_argument(
        "--machine-network", action="store_true", help="stay in the machine's network, with its congestion control"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page goes here instead of beside the result")
    parser.add_argument("--render", type=Path, metavar="RESULT", help="make the page of an old result, and exit")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where every result is kept")
    parser.add_argument(
        "--lbproxy", default=f"{sys.executable} -m lbproxy", metavar="COMMAND", help="default: %(default)s"
    )
    parser.add_argument("--list", action="store_true", help="name what would run, and exit")
    return parser


def _render(result: Path, file: Path | None) -> int:
    try:
        text = page(json.loads(result.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"run.py: {result}: not a result of this version: {error!r}", file=sys.stderr)
        return 2
    target = file or result.with_suffix(".html")
    target.write_text(text)
    print(target)
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def choose(everyone: Sequence[Contender], args: argparse.Namespace) -> tuple[Selection, list[Trial]]:
    """What the patterns mean: --only and --scenarios name scenarios and trials alike. Raises LookupError."""
    trials = [trial for trial in TRIALS if trial.quick or args.preset != "quick"]
    patterns = [word for text in (*args.only, *args.scenarios) for word in text.split(",") if word]
    wanted = [trial for trial in TRIALS if any(matches(word, trial.name) for word in patterns)]
    of_trials = [word for word in patterns if any(matches(word, trial.name) for trial in TRIALS)]
    others = [word for word in patterns if word not in of_trials]
    if not of_trials:
        selection = select(SCENARIOS, everyone, args.scenarios, args.contenders, args.only)
        named = any(matches(word, scenario.name) for word in patterns for scenario in SCENARIOS)
        return selection, [] if named else [
            each for each in trials if any(plays(one, each) for one in selection.contenders)
        ]
    scenarios = [each for each in SCENARIOS if any(matches(word, each.name) for word in others)]
    families = [word for word in others if not any(matches(word, each.name) for each in SCENARIOS)]
    chosen = select(SCENARIOS, everyone, (), [*args.contenders, *families])
    return Selection(scenarios, chosen.contenders), wanted


def _print_list(selection: Selection, trials: Sequence[Trial]) -> None:
    for scenario in selection.scenarios:
        families = [each.family for each in selection.contenders if takes_part(each, scenario)]
        print(f"{scenario.name:18}{scenario.title:45}{', '.join(families)}")
    for trial in trials:
        print(f"{trial.name:18}{trial.title:45}{', '.join(trial.families)}")


def _settings(args: argparse.Namespace) -> Settings:
    preset = PRESETS[args.preset]
    return Settings(
        args.rounds or preset.rounds, args.duration or preset.seconds, args.connections or preset.connections
    )

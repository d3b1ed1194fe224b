"""The command line of the load tests."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contenders import contenders
from bench.field import takes_part
from bench.machine import INSTALL, missing_tools
from bench.measure import Settings
from bench.scenarios import SCENARIOS
from bench.selection import Selection, select

RESULTS = Path(__file__).with_name("results")
PRESETS = {"quick": Settings(3, 1, 16), "normal": Settings(5, 2, 16), "full": Settings(10, 4, 16)}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all ran and every byte was right, 1 not so, 2 wrong usage or a missing program."""
    args = _parser().parse_args(argv)
    everyone = contenders(shlex.split(args.lbproxy))
    try:
        selection = select(SCENARIOS, everyone, args.scenarios, args.contenders, args.only)
    except LookupError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    if args.list:
        _print_list(selection)
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
    return Session(args.preset, _settings(args), selection, not args.no_pin, args.results, args.json).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench/run.py", description="Load lbproxy, nginx and HAProxy side by side.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="preset", action="store_const", const="quick", help="under 2 minutes")
    size.add_argument("--full", dest="preset", action="store_const", const="full", help="about 20 minutes")
    parser.set_defaults(preset="normal")
    names: dict[str, Any] = {"metavar": "PATTERN[,…]", "action": "append", "default": []}
    parser.add_argument("--only", **names, help="scenarios or contenders: a part of the name, or a glob")
    parser.add_argument("--scenarios", **names, help="the same, scenarios alone")
    parser.add_argument("--contenders", **names, help="the same, contenders alone (name or family)")
    parser.add_argument("--rounds", type=_positive, help="turns of each contender in each scenario")
    parser.add_argument("--duration", type=_positive, metavar="SECONDS", help="length of one turn")
    parser.add_argument("--connections", type=_positive, help="open connections (default 16)")
    parser.add_argument("--no-pin", action="store_true", help="let the kernel choose the CPUs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where every result is kept")
    parser.add_argument(
        "--lbproxy", default=f"{sys.executable} -m lbproxy", metavar="COMMAND", help="default: %(default)s"
    )
    parser.add_argument("--list", action="store_true", help="name what would run, and exit")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _print_list(selection: Selection) -> None:
    for scenario in selection.scenarios:
        families = [each.family for each in selection.contenders if takes_part(each, scenario)]
        print(f"{scenario.name:18}{scenario.title:45}{', '.join(families)}")


def _settings(args: argparse.Namespace) -> Settings:
    preset = PRESETS[args.preset]
    return Settings(
        args.rounds or preset.rounds, args.duration or preset.seconds, args.connections or preset.connections
    )

"""The command line.

Imports come late, where a command needs them: `lbproxy --help` answers in the time that python takes to start, and
`lbproxy -t` needs neither trio nor the admin server.

Exit status: 0 all is well, 1 the configuration is refused or the balancer failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lbproxy import __version__

if TYPE_CHECKING:
    from lbproxy.control.config_problem import Loaded

DEFAULT_CONFIG = "/etc/lbproxy/lb.yaml"

_DESCRIPTION = "The load balancer for Kubernetes apiservers. Without a command it runs in the foreground."
_EPILOG = "signals: TERM drains and stops; INT and QUIT stop at once; HUP reloads the configuration."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status. Wrong usage raises SystemExit(2), as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(with_demo="demo" in words).parse_args(words)
    try:
        match args.command:
            case "schema":
                return _print_schema()
            case "demo":
                return _demo(args)
            case _:
                return _balance(args)
    except KeyboardInterrupt:  # before there is anybody to obey the signal
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output has left, as `head` does. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(*, with_demo: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lbproxy", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("-c", "--config", metavar="FILE", default=DEFAULT_CONFIG, help="default: %(default)s")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-t", "--test", action="store_true", help="test the configuration and exit")
    what.add_argument("-T", "--dump", action="store_true", help="test it, print what is in effect and exit")
    parser.add_argument("--version", action="version", version=f"lbproxy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands.add_parser("schema", help="print the JSON Schema of lb.yaml", allow_abbrev=False)
    demo = commands.add_parser("demo", help="three simulated apiservers and the balancer in front", allow_abbrev=False)
    if with_demo:
        from lbproxy.demo.main import add_arguments

        add_arguments(demo)
    return parser


def _balance(args: argparse.Namespace) -> int:
    loaded = _load(args.config, apart=not (args.dump or args.test))
    if loaded is None:
        return 1
    if args.dump:
        from lbproxy.control.config_spelling import effective

        print(effective(loaded.config), end="", flush=True)
        return 0
    if args.test:
        print(f"{args.config}: configuration ok", file=sys.stderr)
        return 0
    from lbproxy.control.app import run

    return run(loaded)


def _load(path: str, *, apart: bool) -> Loaded | None:
    """The configuration, after its warnings; None after the complaints about it. `apart`: by another process."""
    from lbproxy.control.config_problem import ConfigError

    if apart:
        from lbproxy.control.config_process import load_apart as load
    else:
        from lbproxy.control.configfile import load
    try:
        loaded = load(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        count = len(error.problems)
        print(f"{path}: refused, {count} problem{'' if count == 1 else 's'}", file=sys.stderr)
        return None
    for warning in loaded.warnings:
        print(f"{warning.path}:{warning.line}: warning: {warning.message}", file=sys.stderr)
    return loaded


def _print_schema() -> int:
    from lbproxy.control.config_reference import schema

    print(schema(), end="", flush=True)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from lbproxy.demo.main import run

    return run(args)

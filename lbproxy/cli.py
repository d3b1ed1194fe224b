"""The command line.

Imports come late, where a command needs them: `lbproxy --help` answers in the time that python takes to start, and
`lbproxy -t` needs neither trio nor the admin server.

Exit status: 0 all is well, 1 the configuration is refused or the balancer failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lbproxy import __version__

if TYPE_CHECKING:
    from lbproxy.control.config_problem import Loaded

DEFAULT_CONFIG = "/etc/lbproxy/lb.yaml"

_DESCRIPTION = "The load balancer for Kubernetes apiservers. Without a command it runs in the foreground."
_EPILOG = "signals: TERM drains and stops; INT and QUIT stop at once; HUP reloads; USR2 upgrades in place."


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
            case str():
                return _ask(args)
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
    parser.add_argument("-c", "--config", metavar="FILE", help=f"default: {DEFAULT_CONFIG}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-t", "--test", action="store_true", help="test the configuration and exit")
    what.add_argument("-T", "--dump", action="store_true", help="test it, print what is in effect and exit")
    parser.add_argument("--version", action="version", version=f"lbproxy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Command)
    commands.add_parser("schema", help="print the JSON Schema of lb.yaml", allow_abbrev=False)
    _add_verbs(commands)
    demo = commands.add_parser("demo", help="three simulated apiservers and the balancer in front", allow_abbrev=False)
    if with_demo:
        from lbproxy.demo.main import add_arguments

        add_arguments(demo)
    return parser


def _add_verbs(commands: argparse._SubParsersAction[Any]) -> None:
    """What is asked of a running lbproxy."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--socket", metavar="PATH", help="where it listens; default: admin.socket of -c FILE")
    printed = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    printed.add_argument("--json", action="store_true", help="for programs")
    pool = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    pool.add_argument("--pool", type=_name, metavar="POOL", help="where a backend is in several; alone: all of it")

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parents = (common, *parents) if name == "top" else (common, printed, *parents)
        verb: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, parents=parents, allow_abbrev=False
        )
        return verb

    which = "as in lb.yaml; without the port, if that is clear"
    add("status", "listeners, pools and backends, in a table")
    top = add("top", "the same, live in a terminal")
    add("connections", "client connections", pool)
    who = add("who", "the client behind a connection that an apiserver sees come from the balancer")
    add("reload", "read lb.yaml again")
    add("upgrade", "become the version that is installed now, and keep every connection")
    drain = add("drain", "give a backend nothing new; what it has may end, until drain_timeout", pool)
    ready = add("ready", "give a backend connections again", pool)
    maint = add("maint", "take a backend away: its connections are ended", pool)
    weight = add("weight", "set a backend's weight", pool)
    kick = add("kick", "end connections: of a backend, of a client, of a pool; watches go on elsewhere", pool)
    top.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="default: %(default)g")
    top.add_argument("--once", action="store_true", help="print one picture and exit")
    top.add_argument("--svg", metavar="FILE", help="write one picture to a file and exit")
    who.add_argument("source", metavar="IP:PORT", help="as the apiserver names it")
    who.add_argument("time", nargs="?", type=_time, metavar="TIME", help="RFC 3339, or seconds since 1970")
    who.add_argument(
        "--log", action="append", metavar="FILE", help="the access log; - is stdin; default: who uses it now"
    )
    for parser in (drain, ready, maint, weight):
        parser.add_argument("backend", nargs="?", type=_name, metavar="BACKEND", help=which)
    weight.add_argument("weight", type=int, metavar="N", help="1 to 65535")
    drain.add_argument("--wait", action="store_true", help="return when it has no connection left")
    drain.add_argument("--timeout", type=float, default=0.0, metavar="SECONDS", help="of --wait; then exit status 3")
    for parser in (commands.choices["connections"], kick):
        parser.add_argument("backend", nargs="?", type=_name, metavar="BACKEND", help=which)
        parser.add_argument("--client", type=_name, metavar="IP[:PORT]", help="where the connection comes from")


class _Command(argparse.ArgumentParser):
    """Takes options between its arguments too: argparse would give the optional ones up at the first option."""

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixed:  # argparse comes back here for one kind after the other
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False


def _name(text: str) -> str:
    """Of a backend, a pool or a client: an empty one is a variable that nobody has set, and does not mean all."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; leave it out to mean all")
    return text


def _time(text: str) -> float:
    from lbproxy.admin.who import parse_time

    try:
        return parse_time(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write a time as 2026-11-24T01:02:03Z, or seconds since 1970") from None


def _interval(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError("from 0.1 to 3600 seconds")
    return number


def _ask(args: argparse.Namespace) -> int:
    from lbproxy.admin.client import run
    from lbproxy.control.runtime_socket import default_paths

    if args.socket is not None:
        return run(args, [args.socket])
    if args.config is not None:
        loaded = _load(args.config, apart=True)
        if loaded is None:
            return 1
        if loaded.config.admin.socket is None:
            print(f"{args.config}: admin.socket is off: lbproxy listens for nothing", file=sys.stderr)
            return 1
        if loaded.config.admin.socket != default_paths()[0]:
            return run(args, [loaded.config.admin.socket])
    return run(args, default_paths())


def _balance(args: argparse.Namespace) -> int:
    from lbproxy.control.upgrade import inherited_estate, loaded_from

    estate = inherited_estate()
    if estate is not None:
        from lbproxy.control.start import run

        return run(loaded_from(estate), estate)
    path = args.config or DEFAULT_CONFIG
    loaded = _load(path, apart=not (args.dump or args.test))
    if loaded is None:
        return 1
    if args.dump:
        from lbproxy.control.config_spelling import effective

        print(effective(loaded.config), end="", flush=True)
        return 0
    if args.test:
        print(f"{path}: configuration ok", file=sys.stderr)
        return 0
    from lbproxy.control.start import run

    return run(loaded)


def _load(path: str, *, apart: bool) -> Loaded | None:
    """The configuration, after its warnings; None after the complaints about it. `apart`: by another process."""
    from lbproxy.control.config_problem import ConfigError
    from lbproxy.control.config_process import load_apart

    try:
        if apart:
            loaded = load_apart(path)
        else:
            from lbproxy.control.configfile import load

            loaded = load(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        count = len(error.problems)
        print(f"{path}: refused, {count} problem{'' if count == 1 else 's'}", file=sys.stderr)
        return None
    for warning in loaded.warnings:
        with contextlib.suppress(OSError):  # a full disk below stderr is no reason not to start
            print(f"{warning.path}:{warning.line}: warning: {warning.message}", file=sys.stderr)
    return loaded


def _print_schema() -> int:
    from lbproxy.control.config_reference import schema

    print(schema(), end="", flush=True)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from lbproxy.demo.main import run

    return run(args)

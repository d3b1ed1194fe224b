"""`lbproxy demo`: three simulated apiservers, the balancer in front of them, and what to try."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from lbproxy.demo import life
from lbproxy.demo.api import commit_to
from lbproxy.demo.process import Child
from lbproxy.demo.replica import serve_store
from lbproxy.demo.store import Store

NAMES = ("a", "b", "c")
PREFERRED_PORTS = (9001, 9002, 9003)
PREFERRED_ADMIN = "127.0.0.1:9180"
RESTART_SECONDS = 5.0
READY_SECONDS = 15.0
"""How long the balancer may take until it forwards a request."""


class DemoError(Exception):
    """The demo cannot start, or its balancer ended; the message is for the user."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument(
        "--admin", metavar="HOST:PORT", help=f"default: {PREFERRED_ADMIN}, or a free port where that is taken"
    )
    parser.add_argument(
        "--restart-after",
        type=float,
        default=RESTART_SECONDS,
        metavar="S",
        help="a killed apiserver comes back after S seconds; default: %(default)g",
    )
    parser.add_argument(
        "--every",
        type=float,
        default=life.BEAT,
        metavar="S",
        help="something changes in the cluster every S seconds, for a watch to show; default: %(default)g",
    )


def run(args: argparse.Namespace) -> int:
    """The exit status: 0 after Ctrl-C or SIGTERM, 1 where the demo could not start or the balancer ended."""
    try:
        trio.run(_demo, args)
    except DemoError as error:
        print(f"lbproxy demo: {error}", file=sys.stderr)
        return 1
    return 0


@dataclass(slots=True)
class Apiserver:
    name: str
    port: int
    child: Child | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(slots=True)
class Demo:
    """What runs. `failure` is why the demo ended by itself."""

    directory: Path
    listen: str
    admin: str
    apiservers: list[Apiserver] = field(default_factory=list)
    balancer: Child | None = None
    failure: str = ""

    @property
    def store_path(self) -> str:
        return str(self.directory / "store.sock")

    def children(self) -> list[Child]:
        """Front first: the balancer must not report the death of backends that we stop ourselves."""
        found = [self.balancer, *(apiserver.child for apiserver in self.apiservers)]
        return [child for child in found if child is not None]


async def _demo(args: argparse.Namespace) -> None:
    _require_free(args.listen, "--listen")
    admin = args.admin or _preferred_admin()
    _require_free(admin, "--admin")
    store = Store()
    life.furnish(store)
    with tempfile.TemporaryDirectory(prefix="lbproxy-demo-") as directory:
        demo = Demo(Path(directory), args.listen, admin)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_store, store, demo.store_path)
            try:
                await _run_until_signalled(demo, store, args)
            finally:
                # The store last: an apiserver that loses it complains.
                for child in demo.children():
                    await child.stop()
                nursery.cancel_scope.cancel()
    if demo.failure:
        raise DemoError(demo.failure)


async def _run_until_signalled(demo: Demo, store: Store, args: argparse.Namespace) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_until_failure, demo, store, args, nursery.cancel_scope)
            await anext(aiter(signals))
            print("\nstopping", flush=True)
            nursery.cancel_scope.cancel()


async def _run_until_failure(demo: Demo, store: Store, args: argparse.Namespace, everything: trio.CancelScope) -> None:
    """A failure becomes `demo.failure`: what `run` reports is one message, not a group of exceptions."""
    try:
        await _start_and_mind(demo, store, args)
    except* DemoError as group:
        demo.failure = str(group.exceptions[0])
    everything.cancel()


async def _start_and_mind(demo: Demo, store: Store, args: argparse.Namespace) -> None:
    async with trio.open_nursery() as nursery:
        for name, port in zip(NAMES, PREFERRED_PORTS, strict=True):
            apiserver = Apiserver(name, port if _is_free("127.0.0.1", port) else 0)
            demo.apiservers.append(apiserver)
            await _start_apiserver(demo, apiserver)
            nursery.start_soon(_mind_apiserver, demo, apiserver, args.restart_after)
        await _start_balancer(demo)
        nursery.start_soon(_mind_balancer, demo)
        await _wait_served(demo)
        _print_instructions(demo, args)
        nursery.start_soon(partial(life.live, store, commit_to(store), interval=args.every))


async def _start_apiserver(demo: Demo, apiserver: Apiserver) -> None:
    """Start it or raise `DemoError`; its port is known afterwards and stays its own."""
    command = [sys.executable, "-m", "lbproxy.demo.apiserver", "--bind", apiserver.address]
    command += ["--name", apiserver.name, "--store", demo.store_path]
    apiserver.child = Child(command, stop_signal=signal.SIGKILL, stdout=subprocess.PIPE)
    line = await apiserver.child.next_line()
    if line is None:
        raise DemoError(f"apiserver {apiserver.name} did not start on {apiserver.address}")
    apiserver.port = int(json.loads(line)["address"].rpartition(":")[2])


async def _mind_apiserver(demo: Demo, apiserver: Apiserver, restart_after: float) -> None:
    """For ever: when it dies, say so and start it again."""
    while True:
        assert apiserver.child is not None
        code = await apiserver.child.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        print(f"apiserver {apiserver.name} {how}; back in {restart_after:g} s", flush=True)
        await trio.sleep(restart_after)
        await _start_apiserver(demo, apiserver)
        print(f"apiserver {apiserver.name} is back on {apiserver.address}, pid {apiserver.child.pid}", flush=True)


async def _start_balancer(demo: Demo) -> None:
    config = demo.directory / "lb.yaml"
    config.write_text(_config(demo))
    # SIGINT stops it at once; SIGTERM would drain.
    command = [sys.executable, "-m", "lbproxy", "-c", str(config)]
    demo.balancer = Child(command, stop_signal=signal.SIGINT, stdout=subprocess.PIPE)


def _config(demo: Demo) -> str:
    backends = ", ".join(apiserver.address for apiserver in demo.apiservers)
    return (
        f'listen: "{demo.listen}"\n'
        "mode: http\n"
        f"backends: [{backends}]\n"
        "health_check: {type: http, path: /readyz, interval: 1s}\n"
        f'admin: {{bind: "{demo.admin}"}}\n'
        "log: {access: off}\n"
    )


async def _mind_balancer(demo: Demo) -> None:
    """Show what it logs, as sentences, until it ends; that is an error."""
    assert demo.balancer is not None
    while (line := await demo.balancer.next_line()) is not None:
        print(f"lbproxy: {_sentence(line)}", flush=True)
    code = await demo.balancer.wait()
    raise DemoError(f"the balancer ended with status {code}")


def _sentence(line: str) -> str:
    """The message of a line of its log, which is JSON; anything else as it is."""
    try:
        return str(json.loads(line)["msg"])
    except (ValueError, KeyError, TypeError):
        return line


async def _wait_served(demo: Demo) -> None:
    """Until a request through the balancer is answered. Raises `DemoError` when that takes too long."""
    with trio.move_on_after(READY_SECONDS):
        while not await _is_served(demo.listen):
            await trio.sleep(0.05)
        return
    raise DemoError(f"the balancer did not answer on {demo.listen} within {READY_SECONDS:g} s")


async def _is_served(listen: str) -> bool:
    host, port = _split(listen)
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
            return (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")
    except (OSError, trio.BrokenResourceError):
        return False


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise DemoError(f"{address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True


def _preferred_admin() -> str:
    if _is_free(*_split(PREFERRED_ADMIN)):
        return PREFERRED_ADMIN
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def _require_free(address: str, option: str) -> None:
    if not _is_free(*_split(address)):
        raise DemoError(f"{address} is taken or not an address of this host; choose another with {option} HOST:PORT")


def _print_instructions(demo: Demo, args: argparse.Namespace) -> None:
    pids = {apiserver.name: apiserver.child.pid for apiserver in demo.apiservers if apiserver.child}
    url = f"http://{demo.listen}"
    for apiserver in demo.apiservers:
        print(f"apiserver {apiserver.name}  http://{apiserver.address}  pid {pids[apiserver.name]}")
    assert demo.balancer is not None
    print(f"lbproxy      {url}  pid {demo.balancer.pid}")
    print(f"dashboard    http://{demo.admin}/")
    print(
        f"""
In another terminal:

  curl -i {url}/api/v1/namespaces              X-Demo-Apiserver says who answered; repeat it
  curl -N '{url}/api/v1/configmaps?watch=1'    a watch: something changes every {args.every:g} s
  kubectl -s {url} get pods -A -w
  kill -9 {pids["a"]}    an apiserver dies: requests go to the others, and a watch that has shown a change goes on
                   there, in the same response; it is back after {args.restart_after:g} s

Ctrl-C stops everything.
""",
        flush=True,
    )

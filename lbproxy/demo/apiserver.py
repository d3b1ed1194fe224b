"""One simulated kube-apiserver as a process: `python -m lbproxy.demo.apiserver --bind 127.0.0.1:0 --name a`.

The first line on stdout is JSON, printed once it accepts: {"name": …, "address": "127.0.0.1:4711", "pid": …}.
SIGTERM ends it as a kube-apiserver ends (see health.py), a second one or SIGINT at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import ssl
import sys
from functools import partial

import trio

from lbproxy.demo import life
from lbproxy.demo.replica import Replica, replica
from lbproxy.demo.server import Settings, SimulatedApiserver, listen
from lbproxy.demo.store import Store

FLAGS = {
    "shutdown-delay": "seconds between SIGTERM and the closing of the listener (--shutdown-delay-duration)",
    "watch-termination-grace": "seconds in which watches are ended cleanly (--shutdown-watch-termination-grace-period)",
    "request-timeout": "seconds that requests in flight have on shutdown",
    "bookmark-interval": "seconds between two bookmarks of a watch",
    "idle-timeout": "seconds after which an idle connection is closed",
}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m lbproxy.demo.apiserver", description=__doc__.splitlines()[0])
    result.add_argument("--bind", default="127.0.0.1:0", metavar="HOST:PORT")
    result.add_argument("--name", default="a", help="sent as X-Demo-Apiserver with every response")
    result.add_argument("--store", metavar="PATH", help="unix socket of the store to share; default: one of its own")
    result.add_argument("--life", type=float, default=0.0, metavar="S", help="change something every S seconds")
    result.add_argument("--cert", help="serve TLS with this certificate (PEM)")
    result.add_argument("--key", help="and this key")
    result.add_argument("--client-ca", help="require client certificates signed by this CA")
    result.add_argument("--send-retry-after", action="store_true", help="answer 429 while terminating, keep accepting")
    for flag, text in FLAGS.items():
        default = getattr(Settings(), flag.replace("-", "_"))
        result.add_argument(f"--{flag}", type=float, default=default, metavar="S", help=f"{text}; {default:g}")
    return result


def main() -> int:
    arguments = parser().parse_args()
    code = 0
    try:
        trio.run(_run, arguments)
    except* OSError as group:
        print(f"simulated apiserver {arguments.name}: {_first(group)}", file=sys.stderr)
        code = 1
    except* KeyboardInterrupt:
        code = 130
    return code


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _run(arguments: argparse.Namespace) -> None:
    if arguments.store is None:
        store = Store()
        life.furnish(store)
        await _serve(arguments, store, None)
        return
    with trio.CancelScope() as scope:
        async with replica(arguments.store, gone=scope.cancel) as follower:
            await _serve(arguments, follower.store, follower)
    if scope.cancelled_caught:
        raise ConnectionError("the store is gone")


async def _serve(arguments: argparse.Namespace, store: Store, follower: Replica | None) -> None:
    settings = Settings(
        send_retry_after=arguments.send_retry_after,
        **{flag.replace("-", "_"): getattr(arguments, flag.replace("-", "_")) for flag in FLAGS},
    )
    server = SimulatedApiserver(store, arguments.name, commit=follower.commit if follower else None, settings=settings)
    host, _, port = arguments.bind.rpartition(":")
    listener = listen(host.strip("[]"), int(port))
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(_serve_until_done, server, listener, _tls(arguments), nursery.cancel_scope)
            if arguments.life:
                nursery.start_soon(partial(life.live, store, server.commit, interval=arguments.life))
            line = {"name": server.name, "address": f"{address[0]}:{address[1]}", "pid": os.getpid()}
            print(json.dumps(line), flush=True)
            await anext(aiter(signals))
            nursery.start_soon(server.terminate)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


async def _serve_until_done(
    server: SimulatedApiserver,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[tuple[str, int]],
) -> None:
    await server.serve([listener], tls=tls, task_status=task_status)
    everything.cancel()


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=arguments.client_ca)
    context.load_cert_chain(arguments.cert, arguments.key)
    context.set_alpn_protocols(["http/1.1"])
    if arguments.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


if __name__ == "__main__":
    sys.exit(main())

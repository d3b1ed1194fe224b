"""`kubectl logs -f`, `exec`, `attach`, `port-forward`: streams that belong to one pod.

There are no containers behind them. A log is a line a second; exec and attach over WebSocket (v5.channel.k8s.io, what
kubectl 1.30+ speaks) echo standard input to standard output and end like a command that went well; every other
upgrade (SPDY/3.1 of older kubectls, port-forward) echoes raw bytes, which is what a test of a relay needs.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import trio

from lbproxy.demo import probes, websocket
from lbproxy.demo.exchange import Exchange
from lbproxy.demo.resources import at
from lbproxy.demo.routing import Target
from lbproxy.demo.status import refused
from lbproxy.demo.store import Refused, Store

SUBRESOURCES = ("log", "exec", "attach", "portforward")
LOG_INTERVAL = 1.0
LOG_LINES = 5
"""How many lines a log has before anybody follows it."""
CHANNEL_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


async def serve(exchange: Exchange, target: Target, store: Store) -> None:
    pod = store.get(target.resource.id, target.key)
    if pod is None:
        raise refused(Refused.MISSING, target.resource, target.name)
    if target.subresource == "log":
        container = at(pod.body, "spec.containers", [{}])[0].get("name", "main")
        await _log(exchange, f"{target.namespace}/{target.name}/{container}")
        return
    offered = [part.strip() for part in exchange.request.header("sec-websocket-protocol").split(",")]
    protocol = next((protocol for protocol in CHANNEL_PROTOCOLS if protocol in offered), None)
    if exchange.request.header("upgrade").lower() == "websocket":
        await websocket.serve(exchange, protocol, offered)
    else:
        versions = [value for name, value in exchange.request.headers if name.lower() == "x-stream-protocol-version"]
        chosen = [("X-Stream-Protocol-Version", versions[0])] if versions else []
        await probes.echo_tunnel(exchange, chosen)


async def _log(exchange: Exchange, source: str) -> None:
    lines = LOG_LINES
    if tail := exchange.request.first("tailLines"):
        lines = min(lines, int(tail) if tail.isdigit() else lines)
    await exchange.start(200, "text/plain")
    for number in range(lines):
        await exchange.write(_line(source, number))
    if not exchange.request.flag("follow"):
        await exchange.end()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write_lines, exchange, source, lines)
        await exchange.wait_gone()
        nursery.cancel_scope.cancel()
    exchange.taken_over = True
    exchange.connection.close()


async def _write_lines(exchange: Exchange, source: str, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        while True:
            await trio.sleep(LOG_INTERVAL)
            await exchange.write(_line(source, number))
            number += 1


def _line(source: str, number: int) -> bytes:
    return f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {source}: line {number}\n".encode()

"""`kubectl logs -f`, `exec`, `attach`, `port-forward`: streams that belong to one pod.

There are no containers behind them. A log is a line a second; exec and attach, over WebSocket (kubectl 1.30 and newer)
or SPDY/3.1, echo standard input to standard output and end like a command that went well; a forwarded port echoes what
it gets. An upgrade that offers no protocol of Kubernetes echoes raw bytes, which is what a test of a relay needs.
"""

from __future__ import annotations

import contextlib
import zlib
from datetime import UTC, datetime

import trio

from lbproxy.demo import probes, websocket
from lbproxy.demo.exchange import Exchange, Request
from lbproxy.demo.resources import at
from lbproxy.demo.routing import Target
from lbproxy.demo.spdy import SpdyEcho
from lbproxy.demo.status import refused
from lbproxy.demo.store import Refused, Store

SUBRESOURCES = ("log", "exec", "attach", "portforward")
LOG_INTERVAL = 1.0
LOG_LINES = 5
"""How many lines a log has before anybody follows it."""
CHANNEL_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
PORT_FORWARD = "portforward.k8s.io"
SPDY_PROTOCOLS = ("v4.channel.k8s.io", PORT_FORWARD)
TUNNEL_PROTOCOL = f"SPDY/3.1+{PORT_FORWARD}"


async def serve(exchange: Exchange, target: Target, store: Store) -> None:
    pod = store.get(target.resource.id, target.key)
    if pod is None:
        raise refused(Refused.MISSING, target.resource, target.name)
    if target.subresource == "log":
        container = at(pod.body, "spec.containers", [{}])[0].get("name", "main")
        await _log(exchange, f"{target.namespace}/{target.name}/{container}")
        return
    if exchange.request.header("upgrade").lower() == "websocket":
        await _over_websocket(exchange)
    else:
        await _over_spdy(exchange)


async def _over_websocket(exchange: Exchange) -> None:
    offered = [part.strip() for part in exchange.request.header("sec-websocket-protocol").split(",")]
    if TUNNEL_PROTOCOL in offered:
        await websocket.serve(exchange, TUNNEL_PROTOCOL, websocket.SpdyTunnel(SpdyEcho()))
        return
    command = next((protocol for protocol in CHANNEL_PROTOCOLS if protocol in offered), None)
    if command is not None:
        await websocket.serve(
            exchange, command, websocket.Command(_greeting(exchange), stdin=exchange.request.flag("stdin"))
        )
    else:
        await websocket.serve(exchange, next(iter(offered), ""), websocket.Echo())


async def _over_spdy(exchange: Exchange) -> None:
    """The client offers protocols in repeated X-Stream-Protocol-Version lines; the chosen one is sent back."""
    offered = [value for name, value in exchange.request.headers if name.lower() == "x-stream-protocol-version"]
    chosen = next((protocol for protocol in SPDY_PROTOCOLS if protocol in offered), None)
    if chosen is None:
        await probes.echo_tunnel(exchange, [("X-Stream-Protocol-Version", offered[0])] if offered else [])
        return
    connection = exchange.connection
    headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", chosen)]
    far_end = SpdyEcho() if chosen == PORT_FORWARD else SpdyEcho(_awaited(exchange.request), _greeting(exchange))
    try:
        data = await exchange.switch(headers)
        while True:
            await connection.send(far_end.feed(data))
            data = await connection.receive()
            if not data:
                break
        await connection.finish()
    except (OSError, ValueError, zlib.error, trio.ClosedResourceError):
        connection.reset()


def _awaited(request: Request) -> frozenset[str]:
    """The streams that the client opens for a command: what its query asks for, and always one for the outcome."""
    return frozenset({"error", *(name for name in ("stdin", "stdout", "stderr") if request.flag(name))})


def _greeting(exchange: Exchange) -> bytes:
    return f"{exchange.server}: {' '.join(exchange.request.query.get('command', ['attach']))}\n".encode()


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

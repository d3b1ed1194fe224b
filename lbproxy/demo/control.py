"""`/demo/…`: steering one simulated apiserver from outside its process.

GET  /demo/stats                     counts, connections, watches, revision
POST /demo/fail?check=etcd[&off=1]   make a check of /readyz fail, or pass again
POST /demo/watches?end=rst           end all watches: clean, fin, rst, mid-fin or mid-rst; &resource=pods
POST /demo/compact                   forget the history: watches from the past get 410
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lbproxy.demo.exchange import Exchange
from lbproxy.demo.health import CHECKS
from lbproxy.demo.status import ApiError
from lbproxy.demo.watch import End

if TYPE_CHECKING:
    from lbproxy.demo.server import SimulatedApiserver


async def serve(server: SimulatedApiserver, exchange: Exchange) -> None:
    request = exchange.request
    match request.method, request.segments[1:]:
        case "GET", ("stats",):
            await exchange.json(200, _stats(server))
        case "POST", ("fail",):
            await exchange.json(200, {"failing": _fail(server, request.first("check"), off=request.flag("off"))})
        case "POST", ("watches",):
            ended = server.end_watches(_end(request.first("end")), resource=request.first("resource") or None)
            await exchange.json(200, {"ended": ended})
        case "POST", ("compact",):
            server.store.compact(server.store.revision)
            await exchange.json(200, {"compacted": server.store.compacted})
        case _:
            raise ApiError("NotFound", "no such switch")


def _stats(server: SimulatedApiserver) -> dict[str, object]:
    return {
        "name": server.name,
        "pid": os.getpid(),
        "phase": server.health.phase.value,
        "revision": server.store.revision,
        "accepted": server.accepted,
        "connections": server.connections,
        "watches": len(server.hub.watchers()),
        "counts": dict(server.counts),
    }


def _fail(server: SimulatedApiserver, check: str, *, off: bool) -> list[str]:
    if check not in CHECKS:
        raise ApiError("BadRequest", f"check must be one of {', '.join(CHECKS)}")
    if off:
        server.health.failing.discard(check)
    else:
        server.health.failing.add(check)
    return sorted(server.health.failing)


def _end(text: str) -> End:
    try:
        return End(text or "clean")
    except ValueError:
        raise ApiError("BadRequest", f"end must be one of {', '.join(end.value for end in End)}") from None

"""Misbehaviour on demand: what a load balancer must survive and a real apiserver cannot be made to do.

`/fault?…` does to its own answer what the query says; a test can do the same to any request with
`SimulatedApiserver.fault`. Everything is written past h11, which would refuse to say it.

    delay=S        wait S seconds before the first byte
    status=CODE    the status sent (200)
    size=N         length of the body (1024 bytes of `probes.pattern`)
    framing=length|chunked|close
    stop=before|head|N   end the connection before any byte, after the head, or after N bytes of the body
    end=fin|rst|hang     how `stop` ends it; `hang` keeps it open and silent
    pace=S         one byte of the body every S seconds (0: one byte per send)
    interim=CODE   an interim answer first, e.g. 103
    trailers=1     two trailer fields behind a chunked body
    http=1.0       an HTTP/1.0 status line
    retry_after=S  a Retry-After header
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from http.client import responses

import trio

from lbproxy.demo.exchange import MAX_BODY, Exchange, Request
from lbproxy.demo.probes import pattern
from lbproxy.demo.status import ApiError


class Framing(Enum):
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class Ending(Enum):
    FIN = "fin"
    RST = "rst"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Fault:
    delay: float = 0.0
    status: int = 200
    body: bytes = b""
    content_type: str = "application/octet-stream"
    framing: Framing = Framing.LENGTH
    stop: int | None = None
    """Bytes of the body sent before the connection ends; -1 not even the head, None all of it and a proper end."""
    end: Ending = Ending.FIN
    pace: float | None = None
    interim: int | None = None
    trailers: bool = False
    http_version: str = "1.1"
    retry_after: int | None = None


def parse(request: Request) -> Fault:
    """Raises `ApiError` (400) where the query makes no sense."""
    try:
        return Fault(
            delay=request.number("delay", 0),
            status=int(request.number("status", 200)),
            body=pattern(int(request.number("size", 1024))),
            framing=Framing(request.first("framing", "length")),
            stop=_stop(request.first("stop")),
            end=Ending(request.first("end", "fin")),
            pace=request.number("pace", 0) if "pace" in request.query else None,
            interim=int(request.number("interim", 0)) or None,
            trailers=request.flag("trailers"),
            http_version=request.first("http", "1.1"),
            retry_after=int(request.number("retry_after", 0)) or None,
        )
    except ValueError as error:
        raise ApiError("BadRequest", str(error)) from None


def _stop(text: str) -> int | None:
    return {"": None, "before": -1, "head": 0}[text] if text in ("", "before", "head") else int(text)


async def commit(exchange: Exchange, fault: Fault) -> None:
    """Answer as `fault` says. The request's body is read first, so that nothing but the fault ends the connection."""
    await exchange.skip_body(MAX_BODY)
    exchange.taken_over = True
    await trio.sleep(fault.delay)
    if fault.stop == -1:
        await _stop_here(exchange, fault.end)
        return
    exchange.code = fault.status
    await exchange.connection.send(_head(fault, exchange.server))
    await _send_body(exchange, fault)
    if fault.stop is not None:
        await _stop_here(exchange, fault.end)
        return
    if fault.framing is Framing.CHUNKED:
        await exchange.connection.send(b"0\r\n" + (TRAILERS if fault.trailers else b"") + b"\r\n")
    await exchange.connection.finish()


TRAILERS = b"X-Demo-Checksum: 0123\r\nX-Demo-Last: yes\r\n"


def _head(fault: Fault, server: str) -> bytes:
    lines = [f"HTTP/{fault.http_version} {fault.status} {responses.get(fault.status, 'Unknown')}"]
    if fault.interim is not None:
        reason = responses.get(fault.interim, "Unknown")
        lines[:0] = [f"HTTP/1.1 {fault.interim} {reason}", "Link: </demo>; rel=preload", ""]
    lines += [f"Content-Type: {fault.content_type}", f"X-Demo-Apiserver: {server}", "Connection: close"]
    if fault.retry_after is not None:
        lines.append(f"Retry-After: {fault.retry_after}")
    if fault.framing is Framing.LENGTH:
        lines.append(f"Content-Length: {len(fault.body)}")
    elif fault.framing is Framing.CHUNKED:
        lines.append("Transfer-Encoding: chunked")
        if fault.trailers:
            lines.append("Trailer: X-Demo-Checksum, X-Demo-Last")
    return "\r\n".join([*lines, "", ""]).encode()


async def _send_body(exchange: Exchange, fault: Fault) -> None:
    body = fault.body if fault.stop is None else fault.body[: fault.stop]
    step = 1 if fault.pace is not None else 16 * 1024
    for offset in range(0, len(body), step):
        piece = body[offset : offset + step]
        framed = b"%x\r\n%s\r\n" % (len(piece), piece) if fault.framing is Framing.CHUNKED else piece
        await exchange.connection.send(framed)
        if fault.pace is not None:
            await trio.sleep(fault.pace)


async def _stop_here(exchange: Exchange, end: Ending) -> None:
    match end:
        case Ending.RST:
            exchange.connection.reset()
        case Ending.FIN:
            await exchange.connection.finish()
        case Ending.HANG:
            await exchange.wait_gone()
            exchange.connection.close()


def status(code: int, document: bytes, *, retry_after: int | None = None, delay: float = 0.0) -> Fault:
    """The fault of simply answering with another status and body, e.g. a 503 with Retry-After."""
    answer = Fault(status=code, body=document, content_type="application/json", retry_after=retry_after)
    return replace(answer, delay=delay)

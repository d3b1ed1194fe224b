"""Endpoints no apiserver has, for tests of what stands in between: `/echo`, `/bytes`, `/upgrade`."""

from __future__ import annotations

import hashlib

import trio

from lbproxy.demo.exchange import Exchange

PIECE = 64 * 1024
ECHO_LIMIT = 64 * 1024 * 1024
_PATTERN = bytes((7 * i + i // 256) % 256 for i in range(PIECE))


def pattern(size: int) -> bytes:
    """The body of `/bytes?size=N`: the same for everybody, and no two neighbouring 256-byte rows alike."""
    return (_PATTERN * (size // PIECE + 1))[:size]


async def echo(exchange: Exchange, server: str) -> None:
    """The request as it arrived, as JSON.

    `headers` are name and value of every line, in order, as sent; `body` maps byte N to code point N (Latin-1).
    With `?body=digest` a body of any size is only counted and hashed.
    """
    request = exchange.request
    answer = {
        "server": server,
        "peer": request.peer,
        "connection": request.connection,
        "sequence": request.sequence,
        "method": request.method,
        "target": request.target,
        "http_version": request.http_version,
        "headers": request.headers,
    }
    if request.first("body") == "digest":
        digest, size = hashlib.sha256(), 0
        while piece := await exchange.read():
            digest.update(piece)
            size += len(piece)
        answer |= {"body_sha256": digest.hexdigest(), "body_length": size}
    else:
        body = await exchange.body(ECHO_LIMIT)
        answer |= {"body": body.decode("latin-1"), "body_length": len(body)}
    await exchange.json(200, answer)


async def send_bytes(exchange: Exchange) -> None:
    """`/bytes?size=N&mode=plain|chunked|close`: N bytes of `pattern`, never held in memory at once."""
    request = exchange.request
    size, mode = int(request.number("size", 1024)), request.first("mode", "plain")
    if mode == "plain":
        await exchange.start(200, "application/octet-stream", [("Content-Length", str(size))])
    elif mode == "chunked":
        await exchange.start(200, "application/octet-stream")
    else:
        # h11 would frame it; a body that only the close delimits is written past it.
        exchange.taken_over = True
        exchange.code = 200
        await exchange.connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n"
            b"X-Demo-Apiserver: %s\r\n\r\n" % exchange.server.encode()
        )
    send = exchange.connection.send if mode == "close" else exchange.write
    for offset in range(0, size, PIECE) if request.method != "HEAD" else ():
        await send(_PATTERN[: min(PIECE, size - offset)])
    if mode == "close":
        await exchange.connection.finish()
    else:
        await exchange.end()


async def echo_tunnel(exchange: Exchange, more: list[tuple[str, str]] | None = None) -> None:
    """101 for whatever token was offered, then every byte comes back; a FIN is answered with a FIN."""
    token = exchange.request.header("upgrade")
    if not token:
        await exchange.respond(400, b"Upgrade header required\n")
        return
    connection = exchange.connection
    try:
        data = await exchange.switch([("Connection", "Upgrade"), ("Upgrade", token), *(more or [])])
        while True:
            if data:
                await connection.send(data)
            data = await connection.receive()
            if not data:
                break
        await connection.finish()
    except (OSError, trio.ClosedResourceError):
        connection.close()

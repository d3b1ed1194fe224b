"""One request and its answer, framed by h11."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http.client import responses
from itertools import count
from urllib.parse import parse_qs, unquote

import h11
import trio

from lbproxy.demo.connection import Connection
from lbproxy.demo.status import ApiError
from lbproxy.demo.store import encode

MAX_HEAD = 1024 * 1024
"""The apiserver's own bound on a request head (Go's http.DefaultMaxHeaderBytes); h11's default is 16 KiB."""
MAX_BODY = 3 * 1024 * 1024
"""The apiserver's own bound on the body of a write (3 MiB, MaxRequestBodyBytes)."""

Headers = list[tuple[str, str]]

_audit_ids = count(uuid.uuid4().int & ~0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    path: str
    query: dict[str, list[str]]
    headers: tuple[tuple[str, str], ...]
    """Name and value of every header line as it was sent, in order."""
    http_version: str
    peer: str
    connection: int
    """Which connection of this server, counted from 1, and which request on it."""
    sequence: int

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(unquote(part) for part in self.path.split("/") if part)

    def first(self, name: str, default: str = "") -> str:
        values = self.query.get(name)
        return values[0] if values else default

    def flag(self, name: str) -> bool:
        return self.first(name).lower() in ("1", "true")

    def number(self, name: str, default: float) -> float:
        """A numeric query parameter. Raises `ApiError` (400) where it is no number."""
        text = self.first(name)
        try:
            return float(text) if text else default
        except ValueError:
            raise ApiError("BadRequest", f"{name}: {text!r} is not a number") from None

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


class Exchange:
    """What a handler answers with. After `respond`, or `start` and `end`, the connection can carry the next request."""

    def __init__(
        self, connection: Connection, http: h11.Connection, request: Request, server: str, closing: Callable[[], bool]
    ) -> None:
        self.connection = connection
        self.http = http
        self.request = request
        self.code = 0
        """The status sent, 0 before that."""
        self.taken_over = False
        """The handler speaks for itself from now on and has seen to the end of the connection."""
        self.server = server
        self._closing = closing

    @property
    def chunked(self) -> bool:
        """Whether a body of unknown length is chunked; an HTTP/1.0 client gets it up to the close."""
        return self.request.http_version != "1.0"

    async def read(self) -> bytes:
        """The next piece of the request's body, b"" behind it; says 100 Continue first where the client waits."""
        while self.http.their_state is h11.SEND_BODY:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                self.http.receive_data(await self.connection.receive())
            elif isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
        return b""

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises `ApiError` (413) beyond `limit`."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit:
                raise ApiError("RequestEntityTooLarge", f"Request entity too large: limit is {limit}")
            pieces.append(piece)
        return b"".join(pieces)

    async def skip_body(self, limit: int) -> bool:
        """Read and forget what is left of the body; False where more than `limit` was left."""
        while piece := await self.read():
            limit -= len(piece)
            if limit < 0:
                return False
        return True

    async def json(self, code: int, document: object, headers: Headers | None = None) -> None:
        await self.respond(code, encode(document) + b"\n", "application/json", headers)

    async def error(self, error: ApiError) -> None:
        headers = [("Retry-After", str(error.retry_after))] if error.retry_after is not None else []
        await self.json(error.code, error.status, headers)

    async def respond(
        self, code: int, body: bytes, content_type: str = "text/plain", headers: Headers | None = None
    ) -> None:
        more = [("Content-Type", content_type), ("Content-Length", str(len(body))), *(headers or ())]
        response = h11.Response(status_code=code, headers=self._headers(more), reason=_reason(code))
        self.code = code
        output = self.http.send(response) or b""
        if self.request.method != "HEAD":
            output += self.http.send(h11.Data(data=body)) or b""
        await self.connection.send(output + (self.http.send(h11.EndOfMessage()) or b""))

    async def start(self, code: int, content_type: str, headers: Headers | None = None) -> None:
        """Send the head of an answer of unknown length, at once: a client of an idle watch waits for it."""
        more = [("Content-Type", content_type), *(headers or ())]
        if self.chunked and not any(name.lower() == "content-length" for name, _ in more):
            more.append(("Transfer-Encoding", "chunked"))
        self.code = code
        await self._send(h11.Response(status_code=code, headers=self._headers(more), reason=_reason(code)))

    async def write(self, data: bytes) -> None:
        await self._send(h11.Data(data=data))

    async def end(self, trailers: Headers | None = None) -> None:
        await self._send(h11.EndOfMessage(headers=trailers or []))

    async def switch(self, headers: Headers) -> bytes:
        """Answer 101; from then on the connection is the handler's. Returns what the client sent right behind."""
        await self.skip_body(MAX_BODY)
        self.code = 101
        lines = [("X-Demo-Apiserver", self.server), *headers]
        await self._send(h11.InformationalResponse(status_code=101, headers=lines, reason=b"Switching Protocols"))
        self.taken_over = True
        return bytes(self.http.trailing_data[0])

    async def wait_gone(self) -> None:
        """Return when the client has closed. What it sends meanwhile is kept for the next request."""
        try:
            while data := await self.connection.receive():
                self.http.receive_data(data)
        except (OSError, trio.ClosedResourceError):
            return

    async def _send(self, event: h11.Event) -> None:
        await self.connection.send(self.http.send(event) or b"")

    def _headers(self, more: Headers) -> Headers:
        if self._closing():
            more = [*more, ("Connection", "close")]
        return [
            ("X-Demo-Apiserver", self.server),
            ("Audit-Id", str(uuid.UUID(int=next(_audit_ids)))),
            ("Cache-Control", "no-cache, private"),
            ("Date", formatdate(usegmt=True)),
            *more,
        ]


def _reason(code: int) -> bytes:
    return responses.get(code, "Unknown").encode()


def parse_request(event: h11.Request, *, peer: str, connection: int, sequence: int) -> Request:
    target = event.target.decode("latin-1")
    path, _, query = target.partition("?")
    if not path.startswith("/"):  # the absolute form, RFC 9112 section 3.2.2
        path = "/" + path.partition("://")[2].partition("/")[2]
    return Request(
        method=event.method.decode("latin-1"),
        target=target,
        path=path,
        query=parse_qs(query, keep_blank_values=True),
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()),
        http_version=event.http_version.decode("latin-1"),
        peer=peer,
        connection=connection,
        sequence=sequence,
    )

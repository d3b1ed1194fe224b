"""The admin endpoint: a small HTTP/1.1 server on h11 for keepalived, Prometheus, scripts and people.

It only answers questions. It is not in anybody's data path, so it is simple before it is fast; but it must survive
whatever a port scanner sends, and it must answer while the balancer is under load.
"""

from __future__ import annotations

import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import h11
import trio

from lbproxy.admin import dashboard
from lbproxy.admin.metrics import CONTENT_TYPE, metrics
from lbproxy.admin.overview import overview
from lbproxy.admin.runtime import Actions, VerbError, connections, perform
from lbproxy.admin.status import status
from lbproxy.admin.view import View

REQUEST_TIMEOUT = 10.0  # seconds for one request to come, idle time before it included, and for its answer to be taken
MAX_CONNECTIONS = 64
MAX_BODY = 65536  # bytes of a verb's body
MAX_DIGITS = 9  # of a number in a query

log = logging.getLogger(__name__)

_INDEX = """lbproxy
/                           the dashboard, for browsers
/livez                      200 while the balancer works; what keepalived should ask
/readyz                     200 while it takes connections, 503 while it drains
/healthz/backends?min=N     200 while every pool (or ?pool=NAME) has N eligible backends
/metrics                    Prometheus
/status                     JSON
/overview?after=N&event=M   JSON: the same, and what has happened after sample N and event M
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class AdminServer:
    """Answers on listening sockets that are handed to it."""

    def __init__(self, view: View, actions: Actions | None = None) -> None:
        """With `actions` it is the unix socket's: what changes something is done there, and there only."""
        self._view = view
        self._actions = actions
        self._places = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._routes: dict[str, Callable[[dict[str, str]], Awaitable[Answer]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/healthz/backends": self._backends,
            "/metrics": self._metrics,
            "/status": self._status,
            "/overview": self._overview,
            "/connections": self._connections,
        }
        self._files = dashboard.files()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._connection, [listener])

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            self._places.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            async with stream:
                connection = h11.Connection(h11.SERVER)
                while await self._exchange(connection, stream):
                    connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            return
        except Exception:  # the one guard: a bug in a page must not end the balancer
            log.exception("internal error in the admin endpoint")
        finally:
            self._places.release_on_behalf_of(stream)

    async def _exchange(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        """One request and its answer; whether another may follow.

        Clients have a limited time. What they ask for has not: a verb that is half done would be nobody's.
        """
        received: tuple[h11.Request, bytes] | None = None
        try:
            with trio.move_on_after(REQUEST_TIMEOUT):
                received = await _request(connection, stream)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await _send(connection, stream, Answer(400, f"{error}\n".encode()), head=False)
            return False
        if received is None:
            return False
        request, body = received
        if self._actions is not None and request.method == b"POST":
            answer = await self._perform(self._actions, request, body, _who(stream))
        else:
            answer = await self._answer(request)
        taken = await _send(connection, stream, answer, head=request.method == b"HEAD")
        return taken and connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, request: h11.Request) -> Answer:
        if request.method not in (b"GET", b"HEAD"):
            return Answer(405, b"only GET and HEAD: nothing is changed here\n")
        try:
            url = urlsplit(request.target.decode("ascii"))
        except ValueError:
            return Answer(400, b"the target is not a URL\n")
        if url.path in self._files:
            content_type, body = self._files[url.path]
            return Answer(200, body, content_type, dashboard.HEADERS)
        route = self._routes.get(url.path)
        if route is None:
            return Answer(404, b"no such page\n" + _INDEX.encode())
        return await route(dict(parse_qsl(url.query, keep_blank_values=True)))

    async def _perform(self, actions: Actions, request: h11.Request, body: bytes, who: str) -> Answer:
        try:
            return _json(200, await perform(actions, urlsplit(request.target.decode("latin-1")).path, body, who))
        except VerbError as error:
            return _json(error.status, {"error": str(error)})

    async def _connections(self, query: dict[str, str]) -> Answer:
        if self._actions is None:
            return Answer(404, b"only on the unix socket: lbproxy connections\n")
        try:
            return _json(200, await connections(self._actions, query))
        except VerbError as error:
            return _json(error.status, {"error": str(error)})

    async def _livez(self, _query: dict[str, str]) -> Answer:
        """That this answers shows that the control plane runs; a worker must accept, too."""
        if any(worker.ready for worker in self._view.workers()):
            return Answer(200, b"ok\n")
        return Answer(503, b"no worker accepts connections\n")

    async def _readyz(self, query: dict[str, str]) -> Answer:
        if self._view.draining:
            return Answer(503, b"draining\n")
        return await self._livez(query)

    async def _backends(self, query: dict[str, str]) -> Answer:
        least = query.get("min", "1")
        if not _is_number(least):
            return Answer(400, b"min must be a number\n")
        pools = self._view.pools()
        if "pool" in query:
            if query["pool"] not in pools:
                return Answer(404, f"no such pool; there are: {', '.join(pools)}\n".encode())
            pools = {query["pool"]: pools[query["pool"]]}
        lines = []
        enough = True
        for name, backends in pools.items():
            eligible = sum(backend.eligible for backend in backends)
            enough = enough and eligible >= int(least)
            lines.append(f"{name}: {eligible} of {len(backends)} eligible\n")
        return Answer(200 if enough else 503, "".join(lines).encode())

    async def _metrics(self, _query: dict[str, str]) -> Answer:
        return Answer(200, await metrics(self._view), CONTENT_TYPE)

    async def _status(self, _query: dict[str, str]) -> Answer:
        return _json(200, await status(self._view))

    async def _overview(self, query: dict[str, str]) -> Answer:
        after, event = query.get("after", "0"), query.get("event", "0")
        if not (_is_number(after) and _is_number(event)):
            return Answer(400, b"after and event must be numbers\n")
        return Answer(200, json.dumps(overview(self._view, int(after), int(event))).encode(), "application/json")


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= MAX_DIGITS


def _json(code: int, content: object) -> Answer:
    return Answer(code, json.dumps(content, indent=2).encode() + b"\n", "application/json")


def _who(stream: trio.SocketStream) -> str:
    """The user at the other end of a unix socket: unix(7)."""
    pid, uid, _gid = struct.unpack("3i", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"uid {uid} (pid {pid})"


async def _request(connection: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request, bytes] | None:
    """The next request and its body, of which no more than MAX_BODY is kept; None when the client has gone."""
    request: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body = (body + event.data)[:MAX_BODY]
        elif isinstance(event, h11.EndOfMessage):
            return None if request is None else (request, body)
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None


async def _send(connection: h11.Connection, stream: trio.SocketStream, answer: Answer, *, head: bool) -> bool:
    """Whether the client has taken it."""
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *answer.headers,
    ]
    if answer.status == 405:
        headers.append(("Allow", "GET, HEAD"))
    data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    if not head:
        data += connection.send(h11.Data(data=answer.body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    with trio.move_on_after(REQUEST_TIMEOUT) as scope:
        await stream.send_all(data)
    return not scope.cancelled_caught

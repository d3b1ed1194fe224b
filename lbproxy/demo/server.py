"""One simulated kube-apiserver: accepts, reads requests, and ends as the real one does."""

from __future__ import annotations

import errno
import itertools
import socket
import ssl
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import h11
import trio

from lbproxy.demo import faults
from lbproxy.demo.api import Api, Commit, commit_to
from lbproxy.demo.connection import Connection
from lbproxy.demo.dispatch import dispatch, verb_of
from lbproxy.demo.exchange import MAX_BODY, MAX_HEAD, Exchange, Request, parse_request
from lbproxy.demo.faults import Fault
from lbproxy.demo.health import Health, Phase
from lbproxy.demo.routing import parse_target
from lbproxy.demo.status import ApiError
from lbproxy.demo.store import Store
from lbproxy.demo.watch import End, WatchHub

REMEMBERED = 10_000
"""How many requests `seen` keeps."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The flags of kube-apiserver that matter to a balancer; seconds. Defaults are the real ones."""

    shutdown_delay: float = 0.0
    send_retry_after: bool = False
    watch_termination_grace: float = 0.0
    request_timeout: float = 60.0
    """What requests in flight get once the listener is closed."""
    idle_timeout: float = 90.0
    header_timeout: float = 32.0
    bookmark_interval: float = 60.0


class Use(Enum):
    """What a connection is busy with; termination treats each differently."""

    IDLE = "idle"
    REQUEST = "request"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that was answered, or at least begun to be."""

    request: Request
    verb: str
    """`LIST pods`, `WATCH pods`, `GET pods`, `POST configmaps`, or the path of what is no resource."""
    code: int


class SimulatedApiserver:
    """`store` is what it reads; `commit` is where writes go, the store itself unless it is a replica.

    A test can look at `counts`, `seen`, `connections` and `health`, script faults with `fault`, and cut watches with
    `end_watches`. `serve` runs it; `terminate` stops it gracefully and `kill` at once.
    """

    def __init__(
        self, store: Store, name: str = "a", *, commit: Commit | None = None, settings: Settings | None = None
    ) -> None:
        self.store = store
        self.name = name
        self.settings = settings or Settings()
        self.health = Health()
        self.hub = WatchHub(store)
        self.counts: Counter[str] = Counter()
        self.seen: deque[Seen] = deque(maxlen=REMEMBERED)
        self.failures: list[Exception] = []
        """Bugs met while answering, whose clients got a 500. A test that finds any here should fail."""
        self.accepted = 0
        self.fault: Callable[[Request], Fault | None] | None = None
        """Asked for every request; what it returns is done to that request instead of answering it."""
        self.address: tuple[str, int] = ("", 0)
        self.commit = commit or commit_to(store)
        self.api = Api(store, self.commit)
        self._connections: dict[Connection, Use] = {}
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self._accepting = trio.CancelScope()

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://{host}:{port}"

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def serve(
        self,
        listeners: Sequence[socket.socket] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, killed or terminated; takes over `listeners`, by default a free port of 127.0.0.1.

        With `nursery.start` it returns (host, port) once it accepts.
        """
        sockets = list(listeners) if listeners is not None else [listen("127.0.0.1", 0)]
        name = sockets[0].getsockname()
        self.address = (name[0], name[1]) if isinstance(name, tuple) else (str(name), 0)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.hub.run)
                    nursery.start_soon(self.hub.send_bookmarks, self.settings.bookmark_interval)
                    for sock in sockets:
                        nursery.start_soon(self._accept, sock, tls, nursery)
                    task_status.started(self.address)
        finally:
            for sock in sockets:
                sock.close()
            for connection in tuple(self._connections):
                connection.close()
            self.hub.close()

    # Going away

    def kill(self) -> None:
        """As `kill -9` with unsent data around: listeners closed, every connection reset, nothing said."""
        self._accepting.cancel()
        for connection in tuple(self._connections):
            connection.reset()
        self._scope.cancel()

    async def terminate(self) -> None:
        """As SIGTERM (see health.py). Returns when the last request is done or its time is up; `serve` returns too."""
        self.health.phase = Phase.NOT_READY
        await trio.sleep(self.settings.shutdown_delay)
        self.health.phase = Phase.TERMINATING
        if not self.settings.send_retry_after:
            self._accepting.cancel()
            self._close_idle()
        with trio.move_on_after(self.settings.request_timeout):
            await self._finish_requests()
        self._scope.cancel()

    async def _finish_requests(self) -> None:
        grace = self.settings.watch_termination_grace
        watchers = self.hub.watchers()
        for watcher in watchers if grace else ():
            watcher.stop(End.CLEAN)
            await trio.sleep(min(1 / 200, grace / len(watchers)))
        while Use.REQUEST in self._connections.values():
            await self._changed.wait()

    def _close_idle(self) -> None:
        for connection, use in tuple(self._connections.items()):
            if use is Use.IDLE:
                connection.close()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def end_watches(self, end: End, *, resource: str | None = None) -> int:
        """End running watches, of one resource (`pods`, `leases.coordination.k8s.io`) or all. Returns how many."""
        chosen = [watcher for watcher in self.hub.watchers() if resource in (None, watcher.view.resource)]
        for watcher in chosen:
            watcher.stop(end)
        return len(chosen)

    # Accepting and conversing

    async def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None, nursery: trio.Nursery) -> None:
        listener.setblocking(False)
        with self._accepting:
            while True:
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(listener)
                    continue
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                        raise
                    await trio.sleep(0.05)
                    continue
                self.accepted += 1
                nursery.start_soon(self._converse, Connection(sock, tls), self.accepted)
        trio.lowlevel.notify_closing(listener)
        listener.close()

    async def _converse(self, connection: Connection, number: int) -> None:
        self._connections[connection] = Use.IDLE
        try:
            with trio.fail_after(self.settings.header_timeout):
                await connection.handshake()
            http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
            try:
                await self._requests(connection, http, number)
            except h11.RemoteProtocolError as error:
                await _reject(connection, http, error, self.name)
        except (OSError, trio.ClosedResourceError, trio.TooSlowError, h11.LocalProtocolError):
            pass  # the client left, or this server closed under the conversation; either way it is over
        finally:
            connection.close()
            del self._connections[connection]
            self._note_change()

    async def _requests(self, connection: Connection, http: h11.Connection, number: int) -> None:
        peer = connection.peer
        for sequence in itertools.count(1):
            event = await self._next_request(connection, http)
            if event is None:
                break
            request = parse_request(event, peer=peer, connection=number, sequence=sequence)
            exchange = Exchange(connection, http, request, self.name, self._is_hanging_up)
            await self._answer(exchange)
            if exchange.taken_over:
                return
            if not await _ready_for_next(exchange) or self._is_hanging_up():
                break
            http.start_next_cycle()
        await connection.finish()

    def _is_hanging_up(self) -> bool:
        return self.health.phase is Phase.TERMINATING

    async def _next_request(self, connection: Connection, http: h11.Connection) -> h11.Request | None:
        """The next request's head; None where the client hung up or took too long."""
        timeout = self.settings.idle_timeout
        while True:
            event = http.next_event()
            if isinstance(event, h11.Request):
                self._connections[connection] = Use.REQUEST
                return event
            if event is not h11.NEED_DATA:
                return None
            # Between requests a connection may stay idle long; once a head has begun it has to come.
            begun = bool(http.trailing_data[0])
            self._connections[connection] = Use.REQUEST if begun else Use.IDLE
            with trio.move_on_after(self.settings.header_timeout if begun else timeout) as scope:
                http.receive_data(await connection.receive())
            if scope.cancelled_caught:
                return None

    async def _answer(self, exchange: Exchange) -> None:
        segments = exchange.request.segments
        verb = "?"
        try:
            fault = self.fault(exchange.request) if self.fault else None
            target = parse_target(segments)
            verb = verb_of(exchange.request, target)
            self.counts[verb] += 1
            if fault is not None:
                await faults.commit(exchange, fault)
                return
            endpoint = segments[0] if segments else ""
            refusal = self.health.refusal(
                endpoint, exchange.request.header("user-agent"), send_retry_after=self.settings.send_retry_after
            )
            if refusal is not None:
                raise refusal
            await dispatch(self, exchange, target, endpoint)
        except ApiError as error:
            if exchange.code:
                raise BrokenPipeError("failed in the middle of an answer") from error
            await exchange.error(error)
        except (OSError, trio.ClosedResourceError, h11.ProtocolError):
            raise  # the client's doing; _converse ends the connection
        except Exception as error:  # the one guard: a bug must not take the other connections along
            self.failures.append(error)
            traceback.print_exception(error)
            if exchange.code:
                raise BrokenPipeError("failed in the middle of an answer") from error
            await exchange.error(ApiError("InternalError", f"an error in the simulated apiserver: {error!r}"))
        finally:
            self.seen.append(Seen(exchange.request, verb, exchange.code))
            self._note_change()

    def mark_stream(self, connection: Connection) -> None:
        """This connection carries a watch, a log or an upgraded protocol now: termination does not wait for it."""
        self._connections[connection] = Use.STREAM


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises `OSError` (EADDRINUSE) where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


async def _ready_for_next(exchange: Exchange) -> bool:
    """Read what is left of the request; False where the connection must close instead."""
    http = exchange.http
    if not await exchange.skip_body(MAX_BODY):
        return False
    return http.their_state is h11.DONE and http.our_state is h11.DONE


async def _reject(connection: Connection, http: h11.Connection, error: h11.RemoteProtocolError, name: str) -> None:
    """400 as Go's server says it, where anything can still be said."""
    if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        body = f"400 Bad Request: {error}".encode()
        await connection.send(
            b"HTTP/1.1 %d Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
            b"X-Demo-Apiserver: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (error.error_status_hint, name.encode(), len(body), body)
        )
    await connection.finish()

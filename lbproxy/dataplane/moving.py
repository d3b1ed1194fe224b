"""Connections that move to another process: what each of them is, as values and sockets, and made from those again.

What is said here stays in the sockets: no byte is read for the occasion. `take_out` forgets a connection without
closing it, and the kernel keeps what arrives until `put_in` watches the same sockets elsewhere. It can be done where a
connection waits for nobody but its two ends:

- a relay, once its backend is connected;
- an HTTP client between two requests, or in the middle of a head;
- an exchange whose answer has begun, wherever in it: a watch, a log, a large list.

A dial, a request whose answer has not begun, a body that is being sent: those are over soon, and asked again then.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import asdict, fields
from socket import SocketType
from typing import Any

from lbproxy.core.config import Listener as ListenerConfig
from lbproxy.core.config import Mode, Timeouts
from lbproxy.core.config import Pool as PoolConfig
from lbproxy.core.http1 import ChunkedWalk, RequestBlock, parse_request_line
from lbproxy.core.watch import body_from, body_state, parse_watch_request
from lbproxy.dataplane.backend import BackendConnection
from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.exchange_state import CLOSED, EXCHANGE, READING
from lbproxy.dataplane.half import Half
from lbproxy.dataplane.listener import Connection, Listener
from lbproxy.dataplane.pipes import Pipe
from lbproxy.dataplane.relay import QUARTERS, Relay
from lbproxy.dataplane.sockets import local_address
from lbproxy.dataplane.tcp import TcpConnection
from lbproxy.dataplane.timers import NEVER
from lbproxy.dataplane.upgrade import UpgradedRelay
from lbproxy.dataplane.watching import Watch

State = dict[str, Any]
Moved = tuple[State, list[SocketType]]


def take_out(connection: Connection) -> Moved | None:
    """Forget a connection without closing it: its state and its sockets. None, and nothing is done, if it must wait."""
    match connection:
        case TcpConnection():
            return _take_out_tcp(connection)
        case UpgradedRelay():
            return _take_out_upgraded(connection)
        case HttpConnection():
            return _take_out_http(connection)
    return None


def put_in(listener: Listener, state: State, sockets: list[SocketType]) -> Connection:
    """Go on with a connection. Raises KeyError and ValueError if the state is not one, and leaves the sockets open."""
    return _KINDS[state["kind"]](listener, state, sockets)


# -- relays ------------------------------------------------------------------------------------------------------


def _take_out_tcp(relay: TcpConnection) -> Moved | None:
    if relay._dial is not None or not relay.open:
        return None
    state = _who("tcp", relay) | {"backend": relay.peer.address.text, "began": relay.began, "relay": _halves(relay)}
    relay.selection.release(relay.peer)
    relay.listener.leave(relay)
    return state, _stop(relay)


def _put_in_tcp(listener: Listener, state: State, sockets: list[SocketType]) -> Connection:
    client, backend = sockets
    relay = TcpConnection.__new__(TcpConnection)
    Relay.__init__(relay, listener.reactor, listener.timeouts.idle, listener.timeouts.half_close)
    relay.listener = listener
    relay._sock, relay._ip, relay._port = client, state["ip"], state["port"]
    relay._dial = None
    relay._started = state["began"]
    relay.peer = peer = listener.pool.named(state["backend"])
    relay._backend = peer.address.text
    relay._picks = None
    relay.join(client, backend)
    _fill(relay, state["relay"])
    relay.selection.take(peer)
    listener.enter(relay)
    listener.dialer.watch_over(backend)
    _watch(relay)
    return relay


def _take_out_upgraded(relay: UpgradedRelay) -> Moved | None:
    if not relay.open:
        return None
    exchange = relay._exchange
    state = _who("upgraded", exchange) | {"exchange": _exchange(exchange), "relay": _halves(relay)}
    _leave_peer(exchange)
    exchange.listener.leave(relay)
    return state, _stop(relay)


def _put_in_upgraded(listener: Listener, state: State, sockets: list[SocketType]) -> Connection:
    client, backend = sockets
    exchange = _new_client(listener, state, client)
    _fill_exchange(exchange, state["exchange"])
    exchange.phase = CLOSED
    exchange.deadline = NEVER
    exchange._source = local_address(backend)
    listener.reactor.pause(client.fileno())
    relay = UpgradedRelay(exchange, backend)
    _fill(relay, state["relay"])
    listener.leave(exchange)
    listener.enter(relay)
    listener.dialer.watch_over(backend)
    _watch(relay)
    return relay


def _halves(relay: Relay) -> list[State]:
    return [
        {"pending": _pending(half), "read": half.bytes_read, "eof": half.eof, "shut": half.shut}
        for half in (relay.client, relay.backend)
    ]


def _pending(half: Half) -> bytes:
    return half.pending if half.pipe is None else _empty(half.pipe)


def _fill(relay: Relay, states: list[State]) -> None:
    for half, state in zip((relay.client, relay.backend), states, strict=True):
        half.pending, half.bytes_read = state["pending"], state["read"]
        half.eof, half.shut = state["eof"], state["shut"]
    if relay.client.shut or relay.backend.shut:
        relay.on_half_closed()


def _stop(relay: Relay) -> list[SocketType]:
    relay.open = False
    relay.deadline = NEVER
    for half in (relay.client, relay.backend):
        relay.reactor.pause(half.sock.fileno())
        half.eof, half.pending = True, b""  # a resumed pump finds nothing to do
        half.release_pipe()
    relay.come_apart()
    return [relay.client.sock, relay.backend.sock]


def _watch(relay: Relay) -> None:
    """From now on; what is there already raises an event."""
    for half in (relay.client, relay.backend):
        relay.reactor.handlers.pop(half.sock.fileno(), None)
        relay.reactor.add(half.sock.fileno(), half.on_event)


# -- HTTP ----------------------------------------------------------------------------------------------------------


def _take_out_http(client: HttpConnection) -> Moved | None:
    reactor = client.listener.reactor
    state = _who("http", client) | {"in": client._in, "close": client._close, "started": client._started}
    sockets = [client.sock]
    backend = client._backend
    if client.phase == EXCHANGE:
        watch = client.watch
        if backend is None or backend.out or not client._status or client._body_left or (watch and watch.resuming):
            client._readable = True  # so that it looks around when this exchange is over, see on_between_requests
            client.plain = False
            return None
        state["exchange"] = _exchange(client) | {
            "backend": _response(backend),
            "watch": None if watch is None else _watch_state(watch),
        }
        sockets.append(backend.sock)
        reactor.pause(backend.sock.fileno())
        backend.client = None
        backend.deadline = NEVER
        _leave_peer(client)
    elif client.phase != READING:
        return None
    state["out"] = client.out if client._pipe is None else _empty(client._pipe)
    if client._pipe is not None:
        reactor.pipes.give(client._pipe)
        client._pipe = None
    client.deadline = NEVER
    client.phase = CLOSED
    client._backend = client.watch = None
    client.out = client._in = b""
    reactor.pause(client.sock.fileno())
    client.listener.leave(client)
    return state, sockets


def _put_in_http(listener: Listener, state: State, sockets: list[SocketType]) -> Connection:
    client = _new_client(listener, state, sockets[0])
    client.out = state["out"]
    client._in = state["in"]
    exchange = state.get("exchange")
    if exchange is not None:
        _fill_exchange(client, exchange)
        _fill_response(client, exchange, sockets[1])
        return client
    client._started = state["started"]
    client._readable = True
    if client.out:
        client._wait_until_taken()
    elif not client._started:
        client._wait_for_request()
    listener.reactor.again(client._go_on)
    return client


def _new_client(listener: Listener, state: State, sock: SocketType) -> HttpConnection:
    client = HttpConnection(listener, sock, state["ip"], state["port"])
    client._close = state.get("close", False)
    return client


def _exchange(client: Any) -> State:
    line, block = client.line, client.block
    return {
        "request": (line.method, line.target, line.minor),
        "block": asdict(block),
        "peer": client.peer.address.text,
        "key": client.selection.key,
        "status": client._status,
        "long": client._long,
        "began": client._started,
        "answered": client._answered,
        "bytes": (client._bytes_in, client._bytes_out),
        "plain_body": client.wants_plain_body,
    }


def _fill_exchange(client: HttpConnection, state: State) -> None:
    listener = client.listener
    method, target, minor = state["request"]
    client.line = parse_request_line(method.encode() + b" " + target + b" HTTP/1.%d" % minor)
    client.block = RequestBlock(**state["block"])
    client.method = method
    client._status, client._long, client._started = state["status"], state["long"], state["began"]
    client._answered = state["answered"]
    client._bytes_in, client._bytes_out = state["bytes"]
    client.wants_plain_body = state["plain_body"]
    client.phase = EXCHANGE
    client.peer = peer = listener.pool.named(state["peer"])
    client.restarted(state["key"]).take(peer)
    if client._long:
        peer.begin_stream()


def _response(backend: BackendConnection) -> State:
    return {
        "left": backend.left,
        "walk": None if backend._walk is None else backend._walk.state(),
        "persistent": backend._persistent,
        "requests": backend.requests,
        "retire_at": backend._retire_at,
    }


def _fill_response(client: HttpConnection, exchange: State, sock: SocketType) -> None:
    listener, peer, state = client.listener, client.peer, exchange["backend"]
    assert peer is not None
    reactor = listener.reactor
    http = listener.full_config.http
    backend = BackendConnection(reactor, sock, peer, listener.pool.config.idle, http.max_header)
    backend.left, backend._persistent = state["left"], state["persistent"]
    backend.requests, backend._retire_at = state["requests"], state["retire_at"]
    if state["walk"] is not None:
        backend._walk = ChunkedWalk()
        backend._walk.restore(state["walk"])
    if exchange["watch"] is not None:
        client.watch = _watch_from(client, exchange["watch"])
    backend.client = client
    backend.source = client._source = local_address(sock)
    client._backend = backend
    client.deadline = NEVER
    if listener.timeouts.idle:
        client._seen, client._quiet = -1, 0
        listener.timers.arm(client, listener.timeouts.idle / QUARTERS)
    listener.dialer.watch_over(sock)
    reactor.handlers.pop(sock.fileno())
    reactor.add(sock.fileno(), backend.on_event)


def _watch_state(watch: Watch) -> State:
    return {"body": body_state(watch.body), "framed": watch.framed, "started": watch.started, "relist": watch.relist}


def _watch_from(client: HttpConnection, state: State) -> Watch:
    assert client.line is not None
    request = parse_watch_request(client.line.target)
    if request is None:
        raise ValueError("not a watch")
    watch = Watch(request, body_from(state["body"]), state["framed"], state["started"])
    watch.relist = state["relist"]
    return watch


def _leave_peer(client: HttpConnection | Any) -> None:
    """Give the backend back; what has been moved is counted where the exchange ends."""
    if client.peer is not None:
        if client._long:
            client.peer.stats.long_streams -= 1
        client.selection.release(client.peer)
        client.peer = None


# -- both ----------------------------------------------------------------------------------------------------------


def _who(kind: str, connection: Any) -> State:
    config, pool = connection.listener.config, connection.listener.pool.config
    return {
        "kind": kind,
        "listener": (config.name, config.mode.value, config.pool),
        # A successor whose configuration does not have this listener any more, or this pool, goes by these:
        "timeouts": asdict(config.timeouts),
        "pool": {"drain_timeout": pool.drain_timeout, "close_spread": pool.close_spread},
        "ip": connection._ip,
        "port": connection._port,
    }


def _empty(pipe: Pipe) -> bytes:
    """What is in it."""
    data = b""
    while len(data) < pipe.held:
        data += os.read(pipe.read_fd, pipe.held - len(data))
    pipe.held = 0
    return data


def left_behind(state: State) -> tuple[ListenerConfig, PoolConfig]:
    """The listener of a connection, and its pool, as far as one that accepts nothing more needs them."""
    name, mode, pool = state["listener"]
    timeouts = _known(Timeouts, state.get("timeouts", {}))
    listener = ListenerConfig(name, (), Mode(mode), pool, timeouts=Timeouts(**timeouts))
    return listener, PoolConfig(pool, (), **_known(PoolConfig, state.get("pool", {})))


def _known(kind: type[Timeouts | PoolConfig], values: State) -> State:
    """Those that this version knows, too."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def as_socket(fd: int) -> SocketType:
    """A received descriptor."""
    whole = socket.socket(fileno=fd)
    sock = SocketType(int(whole.family), int(socket.SOCK_STREAM), 0, whole.detach())
    sock.setblocking(False)
    return sock


_KINDS: dict[str, Callable[[Listener, State, list[SocketType]], Connection]] = {
    "tcp": _put_in_tcp,
    "upgraded": _put_in_upgraded,
    "http": _put_in_http,
}

"""What an exchange remembers while it lasts, and how it is accounted for: counters, blame, the access-log line."""

from __future__ import annotations

from bisect import bisect_left
from socket import SocketType
from typing import TYPE_CHECKING

from lbproxy.core.histogram import BOUNDS
from lbproxy.core.http1 import ChunkedWalk, RequestBlock, RequestLine
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Selection
from lbproxy.core.termination import Termination
from lbproxy.dataplane.backend import BackendConnection
from lbproxy.dataplane.dial import Dial
from lbproxy.dataplane.listener import NORMAL, Listener
from lbproxy.dataplane.pipes import Pipe
from lbproxy.dataplane.sockets import local_address
from lbproxy.dataplane.timers import NEVER, UNFILED

if TYPE_CHECKING:
    from lbproxy.dataplane.watching import Watch

# Phases of a client connection.
READING = 0  # between requests, or in the middle of a request's head
EXCHANGE = 1
LINGER = 2  # answered and shut down; what the client still sends is read and dropped, so that it can read our answer
CLOSED = 3


class ExchangeState:
    """The state of a request under way, kept on its client's connection.

    It is a base class and not an object of its own because one more object and one more hop per request cost more
    than the whole look-up of the head. The connection gives it `write`, `next_request` and `close_now`.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_backend",
        "_blamed",
        "_body_left",
        "_bytes_in",
        "_bytes_out",
        "_close",
        "_dial",
        "_in",
        "_ip",
        "_long",
        "_picks",
        "_pipe",
        "_port",
        "_quiet",
        "_readable",
        "_recv",
        "_retried",
        "_seen",
        "_source",
        "_started",
        "_status",
        "_tail",
        "_unnoted",
        "_walk",
        "block",
        "deadline",
        "filed",
        "line",
        "listener",
        "method",
        "out",
        "peer",
        "phase",
        "plain",
        "send",
        "sock",
        "wants_plain_body",
        "watch",
    )

    def __init__(self, listener: Listener, sock: SocketType, ip: str, port: int) -> None:
        self.listener = listener
        self.sock = sock
        self.phase = READING
        self.out = b""  # what the client has not taken yet
        self.deadline = NEVER
        self.filed = UNFILED
        self.line: RequestLine | None = None
        self.block: RequestBlock | None = None
        self.method = ""
        self.peer: Peer | None = None
        self.wants_plain_body = False  # an HTTP/1.0 client gets a chunked body without its framing
        self.plain = False  # a repeatable request without a body, and nothing has come after it: see plain.py
        self.watch: Watch | None = None
        self._recv = sock.recv
        self.send = sock.send
        self._ip = ip
        self._port = port
        self._pipe: Pipe | None = None  # holds what the client has not taken yet
        self._tail = b""  # the end of a forwarded head
        self._in = b""  # received and not yet parsed
        self._readable = False  # there may be more to receive, and no event will say so
        self._picks: Selection | None = None  # of this connection's requests, one after the other
        self._unnoted = False  # `peer` was picked the short way, and `_picks` has not been told
        self._backend: BackendConnection | None = None
        self._blamed: Peer | None = None  # who failed last: the log names it
        self._dial: Dial | None = None
        self._close = False  # no further request on this connection
        self._long = False
        self._body_left = 0  # bytes of the request's body still to come, or CHUNKED
        self._walk: ChunkedWalk | None = None
        self._retried = False
        self._started = 0.0
        self._status = 0
        self._asked = 0.0  # when it was sent to the backend that has it
        self._answered = 0.0  # when the response's head came
        self._source = ""  # where the backend sees the connection come from, for the access log
        self._bytes_in = 0
        self._bytes_out = 0
        self._seen = -1
        self._quiet = 0

    @property
    def selection(self) -> Selection:
        """The walk through the backends that this request is on.

        A request that is answered the short way needs none, so it is made up for when somebody asks.
        """
        picks = self._picks
        if self._unnoted or picks is None:
            picks = self.restarted(b"")
            if self.peer is not None:
                picks.tried = self.peer.bit
        return picks

    def restarted(self, key: bytes) -> Selection:
        """A new walk."""
        self._unnoted = False
        picks = self._picks
        if picks is None:
            self._picks = picks = self.listener.pool.select(self._ip, key)
        else:
            picks.restart(key)
        return picks

    @property
    def began(self) -> float:
        return self._started

    @property
    def bytes_moved(self) -> int:
        return self._bytes_in + self._bytes_out

    @property
    def client_ip(self) -> str:
        return self._ip

    @property
    def client_address(self) -> str:
        return f"{self._ip}:{self._port}"

    @property
    def source(self) -> str:
        return "" if self._backend is None else local_address(self._backend.sock)

    @property
    def backend_peer(self) -> Peer | None:
        return self.peer if self._backend is not None else None

    @property
    def stream_kind(self) -> str:
        if not self._long or self.line is None:
            return ""
        return self.line.long_stream or "upgrade"

    @property
    def can_leave(self) -> bool:
        return self.watch is not None

    # -- what the connection does -------------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """The client's socket is ready."""
        raise NotImplementedError

    def on_timeout(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def on_bug(self) -> None:
        """A callback raised what it should not: end this connection."""
        raise NotImplementedError

    def on_unsent(self, rest: bytes) -> None:
        """As in reactor.py."""
        raise NotImplementedError

    def on_send_failed(self, error: OSError) -> None:
        """As in reactor.py."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send to the client; what it does not take is kept, and the backend is not read until it is gone."""
        raise NotImplementedError

    def write_pipe(self, pipe: Pipe, size: int) -> bool:
        """As write(), of `size` bytes in a pipe. False if it keeps the pipe."""
        raise NotImplementedError

    def answer_plain(self, data: bytes, most: int) -> bool:
        """What a backend has said to a plain request, of at most `most` bytes; False if it takes the long way."""
        raise NotImplementedError

    def next_request(self) -> None:
        """The exchange is over: close, or read the next request."""
        raise NotImplementedError

    def close_now(self) -> None:
        """Close the client's socket."""
        raise NotImplementedError

    # -- accounting ---------------------------------------------------------------------------------------------

    def _replayable(self) -> bool:
        assert self.block is not None
        return not self.block.length and not self.block.upgrade and self.method in self.listener.repeatable

    def _blame(self, reason: str) -> None:
        """A passive failure of the current backend; its place in the selection is given back."""
        listener, peer = self.listener, self.peer
        if peer is not None:
            if self._long:
                peer.stats.long_streams -= 1
            peer.stats.failed += 1
            self.selection.fail(peer, listener.reactor.second)
            listener.report(peer, reason)
            self._blamed = peer
            self.peer = None

    def _count_answer(self, peer: Peer, status: int) -> None:
        """A backend has answered: the head is here."""
        seconds = self.listener.timers.now - self._asked
        peer.stats.head_seconds += seconds
        peer.answers[status // 100][bisect_left(BOUNDS, seconds)] += 1

    def _release_peer(self) -> None:
        peer = self.peer
        if peer is not None:
            stats = peer.stats
            if self._long:
                stats.long_streams -= 1
            stats.bytes_in += self._bytes_in
            stats.bytes_out += self._bytes_out
            self.selection.release(peer)

    def _detach(self, backend: BackendConnection) -> None:
        """Close the backend connection, keeping the exchange."""
        self._backend = None
        backend.close()

    def _drop_backend(self, *, reset: bool) -> None:
        backend = self._backend
        if backend is not None:
            self._backend = None
            backend.close(reset=reset)
        self._release_peer()

    def _finish(self, termination: Termination) -> None:
        """Count and log one request."""
        listener = self.listener
        stats = listener.stats
        stats.bytes_in += self._bytes_in
        stats.bytes_out += self._bytes_out
        if termination is NORMAL:
            listener.answered += 1
            if self.line is not None and self.line.lease and 200 <= self._status < 300:
                listener.leases.renewed(self.line.lease, listener.timers.now)
        else:
            listener.failed_requests += 1
            listener.count_end(termination)
            peer = self.peer or self._blamed
            if peer is not None:
                peer.stats.end(termination.value)
        access = listener.access
        if access is not None and access.at_close:
            self._log(termination)
        self.peer = None
        self.watch = None

    def _log(self, termination: Termination) -> None:
        """The access-log line of this request."""
        listener = self.listener
        if listener.access is not None:
            listener.access.write((
                listener.label, self._ip, self._port, self.line, self._status, self.peer or self._blamed, self._source,
                self._started, self._answered, listener.timers.now, self._bytes_in, self._bytes_out, self._long,
                termination,
            ))  # fmt: skip

    def _log_open(self) -> None:
        """A long stream has begun: its line at the end may be an hour away."""
        listener, peer, line = self.listener, self.peer, self.line
        if listener.access is None or peer is None or line is None:
            return
        listener.access.write(
            f'"event":"open","mode":"http",{listener.label},"client":"{self._ip}","client_port":{self._port},'
            f'{line.logged},"status":{self._status},"backend":"{peer.address.text}","source":"{self._source}",'
            f'"head_s":{self._answered - self._started:.3f},"kind":"{self.stream_kind}"'
        )

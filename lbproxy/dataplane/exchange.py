"""One exchange: a request, the backend that answers it, and the response.

Pick → take an idle backend connection or dial → forward the head, and the body as it comes → forward the response as
it comes → give the backend connection back. Bodies are never held: what one side does not take stops the reading
from the other.

What may be sent again (RFC 9110, 9.2.2; what client-go does): any request of which no byte went to a backend; once,
one without a body and with a method of retry.methods, when its backend connection died before the first byte of the
answer. Nothing else ever: a mutation that may have been executed must not be executed twice.
"""

from __future__ import annotations

from socket import SocketType

from lbproxy.core.health import Health
from lbproxy.core.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    ResponseHead,
    plain_response,
    response_head_to_forward,
)
from lbproxy.core.kubernetes import status_response
from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.backend import BackendConnection
from lbproxy.dataplane.dial import Dial
from lbproxy.dataplane.exchange_state import CLOSED, EXCHANGE
from lbproxy.dataplane.listener import NORMAL
from lbproxy.dataplane.relay import QUARTERS
from lbproxy.dataplane.response import AWAITING_HEAD, TELLING
from lbproxy.dataplane.sockets import local_address, reset_on_close
from lbproxy.dataplane.timers import NEVER
from lbproxy.dataplane.upgrade import UpgradedRelay
from lbproxy.dataplane.watching import WatchFailover

_SHUTTING_DOWN = b"apiserver is shutting down"


class Exchange(WatchFailover):
    """The part of a client connection that lives from a request's head to the end of its response."""

    __slots__ = ()

    # -- a backend -----------------------------------------------------------------------------------------------

    def choose(self) -> None:
        """Pick, and go on with an idle connection or a new one."""
        self.go_on_with(self.selection.pick(self.listener.reactor.second))

    def go_on_with(self, peer: Peer | None) -> None:
        """Use an idle connection of the backend that was picked, or dial."""
        if peer is None:
            self.on_dial_failed(Termination.NO_BACKEND)
            return
        idle = peer.idle
        replayable = self._replayable()
        while idle and self.watch is None:  # a watch that goes on elsewhere has no time for a stale connection
            backend: BackendConnection = idle.pop()
            # A request that cannot be sent again does not trust the reactor's last look.
            if replayable or backend.is_alive():
                self._attach(backend, peer)
                return
            backend.close()
        self._dial_to(peer)

    def _dial_to(self, peer: Peer) -> None:
        listener = self.listener
        self.deadline = NEVER
        self._dial = dial = Dial(listener.dialer, self)
        dial.start(peer)

    def on_connected(self, sock: SocketType, peer: Peer) -> None:
        listener = self.listener
        self._dial = None
        peer.dialled += 1
        backend = BackendConnection(
            listener.reactor, sock, peer, listener.pool.config.idle, listener.full_config.http.max_header
        )
        if listener.access is not None:
            backend.source = local_address(sock)
        self._attach(backend, peer)

    def on_dial_failed(self, termination: Termination) -> None:
        self._dial = None
        if self._backend is not None:  # a bug, once the connection stood: nobody knows what has been sent
            self._abort(termination, reset=True)
            return
        if self.watch is not None:
            self.end_watch()
            return
        name = self.listener.pool.name
        if termination is Termination.NO_BACKEND:
            self.listener.no_backend += 1
            message = f"no backend of pool {name} is available"
        else:
            message = f"no backend of pool {name} could be reached"
        self._own_answer(503, message, termination, not_sent=not self._retried)

    def _attach(self, backend: BackendConnection, peer: Peer) -> None:
        """Send the request's head, and what is here of its body."""
        line, block = self.line, self.block
        assert line is not None
        assert block is not None
        self._backend = backend
        self._source = backend.source
        self.peer = peer
        self._asked = self.listener.timers.now
        stats = peer.stats
        stats.total += 1
        if self._long:
            peer.begin_stream()
            self.deadline = NEVER
        backend.client = self
        backend.left = AWAITING_HEAD
        backend.requests += 1
        backend.deadline = NEVER
        watch = self.watch
        head = line.forward if watch is None else watch.request_line(self.listener.timers.now)
        if block.needs_host:
            head += b"Host: " + peer.address.text.encode() + b"\r\n"
        head += block.forward + self._tail
        if self._body_left:
            self._attach_body(backend, head)
            return
        try:
            if backend.write(head) and (not self._long or watch is not None):
                # As _on_request_sent, without the calls.
                timers = self.listener.timers
                self.deadline = deadline = timers.now + self.listener.timeouts.response_header
                if deadline < self.filed:
                    timers.file(self, deadline)
        except OSError:
            self.on_backend_gone(answered=False, reset=True, sent=False)

    # -- the response --------------------------------------------------------------------------------------------

    def begin_response(self, head: ResponseHead, length: int, data: bytes, body: int) -> bytes:
        """The response's head is here: the head to forward, or b"" if `data[:body]` can leave as it is.

        `length` is the body's, which is not the head's own after HEAD.
        """
        listener = self.listener
        line, peer = self.line, self.peer
        assert line is not None
        assert peer is not None
        self._status = status = head.status
        self._answered = listener.timers.now
        self.deadline = NEVER
        if peer.fails:
            self.selection.succeed(peer, listener.reactor.second)
        listener.classes[status // 100] += 1
        self._count_answer(peer, status)
        if listener.timeouts.idle:
            self._seen, self._quiet = -1, 0
            listener.timers.arm(self, listener.timeouts.idle / QUARTERS)
        if self._body_left:
            self._close = True  # it answers before it has read the request: the rest of that goes nowhere
        self.wants_plain_body = length == CHUNKED and not line.minor
        if length == UNTIL_CLOSE or self.wants_plain_body or listener.draining:
            self._close = True
        if self._long:
            if listener.access is not None and listener.access.at_open:
                self._log_open()
            if listener.full_config.http.watch_failover:
                self.open_watch(head, data, body)
        if not self._close and head.minor and line.minor:
            if not head.hop:
                return b""
            if forward := plain_response(head, data[:body], body):
                return forward
        connection = b"close" if self._close else b"" if line.minor else b"keep-alive"
        return response_head_to_forward(
            data[:body], chunked=not self.wants_plain_body, upgrade=False, connection=connection
        )

    def ask_another(self, head: ResponseHead, data: bytes, body: int) -> bool:
        """429 or 503: if it is an apiserver's that shuts down, send the request to another backend. False: it is not.

        Such an apiserver has not begun the request: it says 503 in these words, or 429 with `Connection: close`
        (--shutdown-send-retry-after). A 429 for overload comes without, and goes to the client: to ask elsewhere would
        spread the load that one of them has refused to take. Only for requests without a body, since bodies are not
        kept; the client gets the others' answers and repeats its request.
        """
        block, peer, backend = self.block, self.peer, self._backend
        shuts_down = head.close if head.status == 429 else _SHUTTING_DOWN in data[body : body + TELLING]
        if not shuts_down or block is None or block.length or block.upgrade or self._retried or self.watch is not None:
            return False
        if peer is None or backend is None:
            return False
        if not self.selection.another(self.listener.reactor.second, well=False):
            return False
        self._count_answer(peer, head.status)
        self._ask_elsewhere(backend, peer, "refused")
        return True

    def _ask_elsewhere(self, backend: BackendConnection, peer: Peer, reason: str) -> None:
        """Send the request to another backend, the one time that it may be, without blaming this one."""
        self._retried = True
        peer.stats.retry(reason)
        self._detach(backend)
        self._leave(peer)
        self.choose()

    def _leave(self, peer: Peer) -> None:
        """Give a backend back that has not answered, without blaming it."""
        if self._long:
            peer.stats.long_streams -= 1
        self.selection.release(peer)
        self.peer = None

    def on_interim_head(self, head: bytes) -> None:
        """1xx: forwarded, but HTTP/1.0 clients do not know them (RFC 9110, 15.2)."""
        assert self.line is not None
        self._retried = True  # an answer has begun: the request is not sent again
        if self.line.minor:
            self.write(head)

    def on_response_end(self) -> None:
        """The response is complete: give the backend back and turn to the next request."""
        backend = self._backend
        assert backend is not None
        self._backend = None
        self._release_peer()
        if self._body_left:
            backend.close()
        else:
            backend.release()
        self._finish(NORMAL)
        self.next_request()

    def on_switching_protocols(self, head: bytes, rest: bytes) -> None:
        """101: from here on it is a relay, with whatever came behind the two heads."""
        backend, line, block = self._backend, self.line, self.block
        assert backend is not None
        assert line is not None
        assert block is not None
        if not block.upgrade or self._body_left:
            self.on_bad_response("it switches protocols without having been asked to")
            return
        self._status = 101
        self._answered = self.listener.timers.now
        self.deadline = NEVER
        self.listener.classes[1] += 1
        assert self.peer is not None
        self._count_answer(self.peer, 101)
        forward = response_head_to_forward(head, chunked=False, upgrade=True, connection=b"")
        sock, to_backend = backend.hand_over()
        self._backend = None
        to_client = self.out + forward + rest
        self.out = b""
        if not self._long:
            self._long = True
            self.peer.begin_stream()
        if self.listener.access is not None and self.listener.access.at_open:
            self._log_open()
        relay = UpgradedRelay(self, sock)
        self.listener.timers.brief.discard(self)
        self.listener.leave(self)
        self.listener.enter(relay)
        self.phase = CLOSED
        relay.start(to_client, to_backend + self._in)
        self._in = b""

    # -- when it goes wrong --------------------------------------------------------------------------------------

    def on_backend_gone(self, *, answered: bool, reset: bool, sent: bool = True) -> None:
        """The backend connection ended before the response did."""
        backend, peer = self._backend, self.peer
        assert backend is not None
        assert peer is not None
        if self._status:
            if self.resume_watch("the connection broke within a watch"):
                return
            # The client must not take a truncated response for a whole one: cut it as it was cut.
            # Without framing only a RST says that it was cut.
            self._abort(Termination.BACKEND_ABORT_DATA, reset=reset or self.wants_plain_body)
            return
        reused = backend.requests > 1
        untouched = not self._bytes_in  # none of the body has been taken from the client
        if not answered and untouched and (not sent or (self._replayable() and not self._retried)):
            self._retried = self._retried or sent
            peer.stats.retry("stale" if reused else "closed")
            self._detach(backend)
            self._ask_again(peer, stale=reused)
            return
        self._blame("the connection broke before an answer")
        self._detach(backend)
        if not sent:
            self._own_answer(503, "the backend went away", Termination.BACKEND_CLOSED_HEAD, not_sent=not self._retried)
            return
        self._own_answer(502, "the backend closed the connection without an answer", Termination.BACKEND_CLOSED_HEAD)

    def give_up_waiting(self) -> None:
        """The backend is to be left and has not answered in its time, which is nothing to blame it for."""
        backend, peer = self._backend, self.peer
        if backend is None or peer is None:
            return
        again = self._replayable() and not (self._retried or backend.begun)
        if again and self.selection.another(self.listener.reactor.second, well=False):
            self._ask_elsewhere(backend, peer, "closed")
            return
        self._own_answer(502, "the backend was taken out of use before it answered", Termination.BACKEND_DRAINED)

    def _ask_again(self, peer: Peer, *, stale: bool) -> None:
        """Send the request once more. `stale`: it was a kept-alive connection that ended, which happens to the best.

        That says little about the backend, so it is not blamed; but another one is asked, as nginx does, because it
        may be the first sign of a death, and there is no third time. With no other: the same, by a new connection.
        """
        if not stale or peer.health is Health.DOWN:
            self._blame("the connection broke before an answer")
            self.choose()
        elif self.selection.another(self.listener.reactor.second, well=peer.usable):
            self._leave(peer)
            self.choose()
        else:
            if self._long:
                peer.stats.long_streams -= 1
            self.peer = None
            self._dial_to(peer)

    def on_bad_response(self, reason: str) -> None:
        """The backend sent what is not HTTP, or not one message."""
        if self._status:
            self._abort(Termination.BAD_BODY, reset=True)
            return
        self._blame(f"a malformed response: {reason}")
        if self._backend is not None:
            self._detach(self._backend)
        self._own_answer(502, f"the backend's response is malformed: {reason}", Termination.BAD_RESPONSE)

    def _on_response_timeout(self) -> None:
        seconds = self.listener.timeouts.response_header
        if self.resume_watch(f"no answer in {seconds:g} s"):
            return
        if self._body_left and self._backend is not None and not self._backend.out:
            self._drop_backend(reset=False)
            reason = f"no byte of the request body came in {seconds:g} s"
            self._own_answer(408, reason, Termination.CLIENT_TIMEOUT_REQUEST)
            return
        self._blame(f"no answer in {seconds:g} s")
        if self._backend is not None:
            self._detach(self._backend)
        self._own_answer(504, f"the backend did not answer in {seconds:g} s", Termination.BACKEND_TIMEOUT_HEAD)

    def _on_idle_quarter(self) -> None:
        moved = self._bytes_in + self._bytes_out
        self._quiet = self._quiet + 1 if moved == self._seen else 0
        self._seen = moved
        if self._quiet >= QUARTERS:
            self._abort(Termination.CLIENT_TIMEOUT_DATA if self.out else Termination.BACKEND_TIMEOUT_DATA, reset=True)
        else:
            self.listener.timers.arm(self, self.listener.timeouts.idle / QUARTERS)

    def _client_gone(self) -> None:
        self._abort(Termination.CLIENT_ABORT_DATA if self._status else Termination.CLIENT_ABORT_HEAD, reset=False)

    def _own_answer(self, code: int, message: str, termination: Termination, *, not_sent: bool = False) -> None:
        """Answer in the backend's place; then the next request, if this one has been read to its end."""
        if self._backend is not None:
            self._drop_backend(reset=False)
        self.deadline = NEVER
        self._status = code
        if self._body_left:
            self._close = True
        self.listener.classes[code // 100] += 1
        self.write(
            status_response(
                code, f"lbproxy: {message}", not_sent=not_sent, close=self._close, head=self.method == "HEAD"
            )
        )
        if self.phase == EXCHANGE:
            self._finish(termination)
            self.next_request()

    def _abort(self, termination: Termination, *, reset: bool) -> None:
        """End the exchange and the connection."""
        if self.phase != EXCHANGE:
            return
        if self._dial is not None:
            self._dial.abort()
            self._dial = None
        elif self._backend is not None:
            self._drop_backend(reset=False)
        self._finish(termination)
        if reset:
            reset_on_close(self.sock)
        self.close_now()

    # -- the end ---------------------------------------------------------------------------------------------------

    def end_upgraded(self, bytes_in: int, bytes_out: int, termination: Termination) -> None:
        """The relay that this exchange became is over."""
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out
        self._release_peer()
        self._finish(termination)

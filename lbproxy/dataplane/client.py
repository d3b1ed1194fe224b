"""A client connection in http mode: its events, writing responses, and closing so that both sides are seen.

The hot path is a request without a body on a kept connection: two dictionary look-ups instead of a parse, one send,
and for the answer one scan, one send. Whatever is rarer is kept out of that path in methods of its own.
"""

from __future__ import annotations

import socket
from socket import SocketType

from lbproxy.core.http1 import BadMessageError
from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.backend import CHUNK, TURNS
from lbproxy.dataplane.exchange_state import CLOSED, EXCHANGE, LINGER, READING
from lbproxy.dataplane.listener import Listener
from lbproxy.dataplane.pipes import IN_PIPE, Pipe
from lbproxy.dataplane.reactor import ERR, HUP, IN_OUT, OUT, RDHUP
from lbproxy.dataplane.request_reader import RequestReader
from lbproxy.dataplane.sockets import reset_on_close
from lbproxy.dataplane.timers import NEVER

LINGER_TIME = 2.0  # seconds
GONE = ERR | HUP


class HttpConnection(RequestReader):
    """One client. Made by the listener for each accepted socket."""

    __slots__ = ()

    def __init__(self, listener: Listener, sock: SocketType, ip: str, port: int) -> None:
        super().__init__(listener, sock, ip, port)
        listener.timers.arm_briefly(self, listener.timeouts.request_header)
        listener.reactor.add(sock.fileno(), self.on_event)
        listener.enter(self)

    # -- events --------------------------------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        if events == IN_OUT and self.phase == READING and not (self._in or self.out):
            recv = self._recv  # by name: a call of a slot that is no method takes Python's slow way
            size = self._room
            try:
                data = recv(size)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            known = self._plain.get(data)
            if known is not None and len(data) < size:
                line, block, forward = known
                self.begin_plain(line, block, forward)
                return
            self.listener.reactor.send_all()
            if self.phase == READING and self._received(data, size):
                self._read()
            return
        self.listener.reactor.send_all()
        if events & OUT and self.out:
            self._flush()
        if events == OUT:
            return
        self.plain = False  # there is more to look at than one answer
        leaving = events & GONE or (events & RDHUP and not self._hung_up)
        if events & RDHUP:
            self._hung_up = True
        if self.phase == READING and not self.out:
            self._read()
        elif self.phase == EXCHANGE:
            self._readable = True
            if self._body_left and self._backend is not None:
                self._pump_body()
            elif leaving:
                # FIN in the middle of an exchange is a client that has given up: nginx and the apiserver itself
                # read it so. It frees the backend at once of a list or a watch that nobody wants any more.
                self._client_gone()
        elif self.phase == LINGER:
            self._drop_input()
        else:
            self._readable = True

    def on_timeout(self) -> None:
        if self.phase == READING:
            if self._in and not self.out:
                self._refuse(
                    BadMessageError("the request's head took too long", 408), Termination.CLIENT_TIMEOUT_REQUEST
                )
            else:
                self.close_now()
        elif self.phase == LINGER:
            self.close_now()
        elif self._status and not (self.watch is not None and self.watch.resuming):
            self._on_idle_quarter()
        elif self.out and not self._status:
            self._wait_for_client()
        else:
            self._on_response_timeout()

    def on_bug(self) -> None:
        self.close(Termination.INTERNAL)

    def drain(self) -> None:
        """Close when idle, else after the response under way."""
        self._close = True
        self.plain = False
        if self.phase == READING and not self._in and not self.out:
            if self._picks is None and not self._unnoted:  # a new one, whose first request is on its way
                self.listener.timers.arm(self, LINGER_TIME)
            else:
                self.close_now()

    def close(self, termination: Termination) -> None:
        """End now, whatever is under way."""
        if self.phase == EXCHANGE:
            self._abort(termination, reset=True)
        else:
            self.close_now()

    def depends_on(self, peer: Peer) -> bool:
        return self.phase == EXCHANGE and self.peer is peer and self._backend is not None

    def on_backend_dead(self, peer: Peer) -> None:
        if not self.depends_on(peer):
            return
        if not self._status:
            assert self._backend is not None
            self.on_backend_gone(answered=self._backend.begun, reset=True)
        elif not self.resume_watch(""):
            self._abort(Termination.BACKEND_DEAD, reset=True)

    def put_out(self, peer: Peer) -> None:
        """A request without an answer is asked again or answered; all else is cut."""
        if self._status:
            self.close(Termination.BACKEND_DRAINED)
        elif self.depends_on(peer):
            self.give_up_waiting()

    # -- writing, and the end -------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send to the client; what it does not take is kept, and the backend is not read until it is gone."""
        size = len(data)
        self._bytes_out += size
        if self.out:
            self.out += data
            return
        send = self.send
        try:
            sent = send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._client_gone()
            return
        if sent < size:
            self.out = data[sent:]

    def write_pipe(self, pipe: Pipe, size: int) -> bool:
        """As write(), of `size` bytes in a pipe.

        False if it keeps the pipe: it does not take all, or is gone.
        """
        self._bytes_out += size
        try:
            if pipe.drain(self.sock.fileno()):
                return True
        except OSError:
            self._pipe = pipe
            if self.phase == EXCHANGE:
                self._client_gone()
            else:
                self.close_now()
            return False
        self.out, self._pipe = IN_PIPE, pipe
        return False

    def on_unsent(self, rest: bytes) -> None:
        """The client does not take all of what was in the outbox."""
        if self.phase == CLOSED:
            reset_on_close(self.sock)  # a FIN would say that this was all
            return
        self.out = rest
        if self.phase == READING:
            self._wait_until_taken()
        elif not self._status:  # its next request is under way already
            self._seen, self._quiet = -1, 0

    def on_send_failed(self, error: OSError) -> None:
        """It has gone before what was in the outbox."""
        if self.phase == EXCHANGE:
            self._client_gone()
        else:
            self.close_now()

    def _flush(self) -> None:
        data, self.out = self.out, b""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            if not self.write_pipe(pipe, 0):
                return
            self.listener.reactor.pipes.give(pipe)
        else:
            self._bytes_out -= len(data)  # write() counts it again
            self.write(data)
        if self.out or self.phase == CLOSED:
            return
        if self.phase == EXCHANGE:
            if self._backend is not None:
                if not self._status:
                    self._on_request_sent()  # the backend was not listened to meanwhile
                self._backend.read()
        elif self.phase == READING:
            self.phase = EXCHANGE
            self.next_request()

    def next_request(self) -> None:
        if self.phase != EXCHANGE:
            return
        self.phase = READING
        if not (self.out or self._close or self._in or self._readable or self._hung_up):  # the common case, by itself
            self._started = 0.0
            timers = self.listener.timers
            self.deadline = deadline = timers.now + self.listener.timeouts.keepalive
            if deadline < self.filed:
                timers.file(self, deadline)
            return
        if self.out:
            self._wait_until_taken()  # _flush comes back here
            return
        if self._close:
            self._close_gently()
            return
        self._wait_for_request()
        # Not from here: answers of our own to pipelined requests would nest as deep as there are requests.
        self.listener.reactor.again(self._go_on)

    def _go_on(self, _events: int) -> None:
        """Turn to what has been received already."""
        if self.listener.on_between_requests is not None and self.phase == READING:
            self.listener.on_between_requests(self)
            return
        if self._in and self.phase == READING and not self.out and not self._started:
            self._parse()
        more = self._readable or self._hung_up
        if more and self.phase == READING and not self.out and (self._started or not self._in):
            self._read()

    def _wait_until_taken(self) -> None:
        """The answer's end is still here. Its client is not idle: as in a relay, only timeouts.idle ends it."""
        self._started = 0.0
        self.deadline = NEVER
        if self.listener.timeouts.idle:
            self.listener.timers.arm(self, self.listener.timeouts.idle)

    def _wait_for_client(self) -> None:
        """It has not taken the answer before this one, so nobody knows whether the backend has answered."""
        timeouts = self.listener.timeouts
        if timeouts.idle:
            self._on_idle_quarter()
        else:
            self.listener.timers.arm(self, timeouts.response_header)

    def _wait_for_request(self) -> None:
        self._started = 0.0
        listener = self.listener
        listener.timers.arm(self, listener.timeouts.keepalive)

    def _close_gently(self) -> None:
        """Close so that the client can read the answer: a RST for bytes that nobody read would destroy it."""
        if not self._body_left and not self._readable:
            self.close_now()
            return
        self.phase = LINGER
        self._in = b""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close_now()
            return
        self.listener.timers.arm(self, LINGER_TIME)
        self._drop_input()

    def _drop_input(self) -> None:
        for _ in range(TURNS):
            try:
                if not self._recv(CHUNK):
                    self.close_now()
                    return
            except BlockingIOError:
                return
            except OSError:
                self.close_now()
                return
        self.listener.reactor.again(self.on_event)

    def close_now(self) -> None:
        if self.phase == CLOSED:
            return
        self.phase = CLOSED
        self.deadline = NEVER
        if self.out:
            reset_on_close(self.sock)  # a FIN would say that this was all
        self.out = self._in = b""
        if self._pipe is not None:
            self.listener.reactor.pipes.give(self._pipe)
            self._pipe = None
        listener = self.listener
        listener.timers.brief.discard(self)
        listener.reactor.close(self.sock)
        listener.leave(self)

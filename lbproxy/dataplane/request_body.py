"""The request's body on its way to the backend, as it comes: never held, and the backend's pace is the client's."""

from __future__ import annotations

from lbproxy.core.http1 import CHUNKED, BadMessageError
from lbproxy.core.termination import Termination
from lbproxy.dataplane.backend import CHUNK, TURNS, BackendConnection
from lbproxy.dataplane.exchange_state import EXCHANGE, ExchangeState
from lbproxy.dataplane.timers import NEVER


class RequestBody(ExchangeState):
    """The part of an exchange that reads from the client. The exchange gives it what ends one."""

    __slots__ = ()

    def _attach_body(self, backend: BackendConnection, head: bytes) -> None:
        self._on_request_sent()  # not yet, but a body that stops moving has as long as an answer
        if self._in:
            data, self._in = self._in, b""
            body = self._take_body(data)
            if self.phase != EXCHANGE or self._status:
                return  # the body was refused
            head += body
        try:
            written = backend.write(head)
        except OSError:
            self.on_backend_gone(answered=False, reset=True, sent=False)
            return
        if not written:
            return
        if not self._body_left:
            self._on_request_sent()
        elif self._readable:
            self._pump_body()

    def _on_request_sent(self) -> None:
        if self._long:
            self.deadline = NEVER
        else:
            listener = self.listener
            listener.timers.arm(self, listener.timeouts.response_header)

    def on_backend_writable(self) -> None:
        """The backend has taken all that was held for it."""
        if self._body_left:
            self._pump_body()
        elif not self._status:
            self._on_request_sent()

    def _pump_body(self) -> None:
        """Move the body to the backend, until there is no more or the backend is full."""
        backend = self._backend
        assert backend is not None
        for _ in range(TURNS):
            if backend.out:
                return
            try:
                data = self._recv(CHUNK)
            except BlockingIOError:
                self._readable = False
                return
            except OSError:
                data = b""
            if not data:
                self._client_gone()
                return
            body = self._take_body(data)
            if self._backend is not backend:
                return
            try:
                written = backend.write(body)
            except OSError:
                # It may have answered before it closed: its answer is still to be read.
                self._stop_body(backend)
                return
            if not self._status and (written or self._body_left):
                self._on_request_sent()
            if not self._body_left:
                return
        self.listener.reactor.again(self.on_event)

    def _take_body(self, data: bytes) -> bytes:
        """What of `data` belongs to the body; the rest is the next request's."""
        left = self._body_left
        if left == CHUNKED:
            assert self._walk is not None
            try:
                end = self._walk.feed(data)
            except BadMessageError as error:
                self._bad_body(400, error.reason)
                return b""
            if 0 < self.listener.full_config.http.max_body < self._walk.payload:
                self._bad_body(413, "the request body is larger than http.max_body")
                return b""
            if end >= 0:
                self._body_left = 0
                self._walk, self._in, data = None, data[end:], data[:end]
        elif len(data) >= left:
            self._body_left = 0
            self._in, data = data[left:], data[:left]
        else:
            self._body_left = left - len(data)
        self._bytes_in += len(data)
        return data

    def _bad_body(self, code: int, reason: str) -> None:
        """The backend has seen part of a body that is not one: cut it off, so that it cannot take it for whole."""
        if self._backend is not None:
            self._drop_backend(reset=True)
        if self._status:
            self._abort(Termination.BAD_BODY, reset=False)
        else:
            self._own_answer(code, reason, Termination.BAD_BODY)

    def _stop_body(self, backend: BackendConnection) -> None:
        """The backend reads no more: see whether it has answered."""
        self._close = True
        backend.out = b""
        backend.read()

    # -- what the exchange does ----------------------------------------------------------------------------------

    def on_backend_gone(self, *, answered: bool, reset: bool, sent: bool = True) -> None:
        """The backend connection ended before the response did."""
        raise NotImplementedError

    def _client_gone(self) -> None:
        raise NotImplementedError

    def _own_answer(self, code: int, message: str, termination: Termination, *, not_sent: bool = False) -> None:
        raise NotImplementedError

    def _abort(self, termination: Termination, *, reset: bool) -> None:
        raise NotImplementedError

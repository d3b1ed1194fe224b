"""The reading of requests on a client's connection: a head after the other, each checked and begun.

What is here is the long way of a request's head. One that is like one before goes the short way (client.py's
`on_event`, plain.py) and is only looked up.
"""

from __future__ import annotations

from socket import SocketType

from lbproxy.core.http1 import CHUNKED, UNTIL_CLOSE, BadMessageError, ChunkedWalk, RequestBlock, RequestLine
from lbproxy.core.termination import Termination
from lbproxy.dataplane.backend import CHUNK
from lbproxy.dataplane.exchange_state import EXCHANGE, READING
from lbproxy.dataplane.heads import HeadCache, not_http
from lbproxy.dataplane.listener import Listener
from lbproxy.dataplane.plain import PlainExchange
from lbproxy.dataplane.sockets import FEW


class RequestReader(PlainExchange):
    """The part of a client connection that turns what the client sends into exchanges."""

    __slots__ = ("_heads", "_hung_up", "_plain", "_room")

    def __init__(self, listener: Listener, sock: SocketType, ip: str, port: int) -> None:
        super().__init__(listener, sock, ip, port)
        self._heads: HeadCache
        self._heads, self._tail = listener.heads.known_client(ip)
        self._plain = self._heads.plain
        self._hung_up = False  # the client has sent FIN
        self._room = FEW

    def on_reconfigured(self) -> None:
        """The listener has taken on another configuration."""
        self.plain = False  # other workers may be to be told of what is under way
        self._heads, self._tail = self.listener.heads.known_client(self._ip)
        self._plain = self._heads.plain

    def _read(self) -> None:
        while True:
            try:
                data = self._recv(CHUNK)
            except BlockingIOError:
                self._readable = False
                return
            except OSError:
                data = b""
            if not self._received(data, CHUNK):
                return

    def _received(self, data: bytes, most: int) -> bool:
        """Take up what was read, of at most `most` bytes. True if there is, or may be, more to read now."""
        if not data:
            self._on_eof_between()
            return False
        if self.out:  # its last answer, which has just been sent, was not taken: this is as good as not read yet
            self._in, self._readable = data, True
            return False
        # After a full read there may be more, and edge-triggered epoll will not say so again.
        self._readable = len(data) == most
        if self._readable:
            self._room = CHUNK
        known = len(self._in)
        if known:
            self._in += data
            self._parse(max(known - 3, 0) if self._started else 0)  # not started: it was not looked at yet
        else:
            self._in = data
            self._parse()
        if self.phase != READING or self.out or not (self._hung_up or self._readable):
            return False
        return not self._in or self._started > 0  # else _go_on has that to do first

    def _on_eof_between(self) -> None:
        if self._in:
            self.listener.count_end(Termination.CLIENT_ABORT_REQUEST)
        self.close_now()

    def _parse(self, search_from: int = 0) -> None:
        """Begin the next exchange if its head is there."""
        data = self._in
        end = data.find(b"\r\n\r\n", search_from)
        if end < 0:
            self._wait_for_head(data)
            return
        eol = data.find(b"\r\n")
        if not eol:  # empty lines before the request line are ignored (RFC 9112, 2.2)
            self._in = data.lstrip(b"\r\n")
            self._parse()
            return
        heads = self._heads
        line = heads.lines.get(data[:eol])
        block = heads.blocks.get(data[eol + 2 : end])
        if line is None or block is None or not line.minor or line.host is not None:
            try:
                if end > self.listener.full_config.http.max_header:
                    raise BadMessageError("the request's head is larger than http.max_header", 431)
                line = heads.line(data[:eol])
                block = heads.block(line, data[eol + 2 : end])
            except BadMessageError as error:
                self._refuse(error, Termination.BAD_REQUEST)
                return
        heads.remember(data, end + 4, line, block)
        self._in = data[end + 4 :]
        self._begin(line, block)

    def _wait_for_head(self, data: bytes) -> None:
        listener = self.listener
        newline = data.find(b"\n")
        if len(data) > listener.full_config.http.max_header:
            self._refuse(
                BadMessageError("the request's head is larger than http.max_header", 431), Termination.BAD_REQUEST
            )
        elif newline > 0 and data[newline - 1] != 0x0D:
            self._refuse(BadMessageError("a line ends in a bare LF"), Termination.BAD_REQUEST)
        elif data[:1] < b"!" and not b"\r\n".startswith(data[:2]):
            self._refuse(not_http(data), Termination.BAD_REQUEST)
        elif not self._started:
            self._started = listener.timers.now
            listener.timers.arm(self, listener.timeouts.request_header)

    def _begin(self, line: RequestLine, block: RequestBlock) -> None:
        listener = self.listener
        timers = listener.timers
        self.phase = EXCHANGE
        self.line = line
        self.block = block
        self.method = line.method
        self._started = timers.now
        self._status = 0
        self._bytes_in = self._bytes_out = 0
        self._retried = False
        self._blamed = None
        self._long = bool(line.long_stream)
        self._body_left = block.length
        self.plain = False
        if block.close or listener.draining or (not line.minor and not block.keep_alive):
            self._close = True
        if listener.admission is not None and line.herd and not listener.admits():
            message = "the apiservers have just come back, and watches and lists are let in slowly; try again"
            self._own_answer(429, message, Termination.HELD_OFF, not_sent=True)
            return
        if block.length:
            limit = listener.full_config.http.max_body
            if limit and block.length > limit:
                self._own_answer(413, f"the request body is larger than {limit} bytes", Termination.BAD_REQUEST)
                return
            if block.length == CHUNKED:
                self._walk = ChunkedWalk()
        key = b""
        if listener.key:
            key = {"remote_addr": self._ip.encode(), "uri": line.target}.get(listener.key, block.key)
        self.restarted(key)
        self.choose()

    def _refuse(self, error: BadMessageError, termination: Termination) -> None:
        """Answer a request that could not be read; nothing after it can be."""
        self.phase = EXCHANGE
        self.line = self.block = self._blamed = None
        self.method = ""
        self._close = True
        self._body_left = UNTIL_CLOSE
        self._bytes_in = self._bytes_out = self._status = 0
        self._long = False
        self._started = self._started or self.listener.timers.now
        self._own_answer(error.status, error.reason, termination)

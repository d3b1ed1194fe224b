"""What a backend answers: its head, and where its body ends.

The socket is BackendConnection's business; this part is told what has come, and tells the exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbproxy.core.http1 import (
    CHUNKED,
    REFUSALS,
    UNTIL_CLOSE,
    BadMessageError,
    ChunkedWalk,
    ResponseHead,
    parse_response_head,
)
from lbproxy.core.peer import Peer

if TYPE_CHECKING:
    from lbproxy.dataplane.exchange import Exchange
    from lbproxy.dataplane.watching import Watch

AWAITING_HEAD = -3  # `left` while the response's head is awaited
DONE = 0
UNAVAILABLE = 503
TELLING = 300  # bytes of a 503's body that say why: a Status object has its message behind some 80 bytes


class Response:
    """The reading of one response after the other. `client` is the connection that they are for."""

    __slots__ = ("_buffer", "_max_header", "_persistent", "_walk", "client", "left", "peer")

    def __init__(self, peer: Peer, max_header: int) -> None:
        self.peer = peer
        self.client: Exchange | None = None
        self.left = AWAITING_HEAD  # bytes of the response's body still to come, or AWAITING_HEAD, CHUNKED, UNTIL_CLOSE
        self._buffer = b""  # a partial head
        self._walk: ChunkedWalk | None = None
        self._persistent = True
        self._max_header = max_header

    @property
    def begun(self) -> bool:
        """Whether a byte of the response has come."""
        return self.left != AWAITING_HEAD or bool(self._buffer)

    def _on_head_bytes(self, client: Exchange, data: bytes) -> None:
        client.plain = False  # what comes next is no answer by itself, whatever it looks like
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > self._max_header:
                    client.on_bad_response("its head is larger than http.max_header")
                else:
                    self._buffer = data
                return
            try:
                head = parse_response_head(data, end)
            except BadMessageError as error:
                client.on_bad_response(error.reason)
                return
            if client.watch is not None and head.status >= 200:
                self._on_resumed_head(client, head, data, end + 4)
                return
            if head.status in REFUSALS:
                if (
                    head.status == UNAVAILABLE
                    and len(data) - end - 4 < min(head.length, TELLING)
                    and client.method != "HEAD"
                ):
                    self._buffer = data  # it may be the refusal of one that shuts down: that shows in its body
                    return
                if client.ask_another(head, data, end + 4):
                    return
            if head.status >= 200:
                self._on_final_head(client, head, data, end + 4)
                return
            if head.status == 101:
                client.on_switching_protocols(data[: end + 4], data[end + 4 :])
                return
            client.on_interim_head(data[: end + 4])
            data = data[end + 4 :]
            if not data or self.client is not client:
                return

    def _on_final_head(self, client: Exchange, head: ResponseHead, data: bytes, body: int) -> None:
        length = 0 if client.method == "HEAD" or head.status in (204, 304) else head.length
        self.left = length
        self._persistent = not head.close and length != UNTIL_CLOSE
        forward = client.begin_response(head, length, data, body)
        if length == CHUNKED and client.watch is None:
            self._walk = ChunkedWalk()
        # Head and what is here of the body leave in one piece; most heads leave as they came, without a copy.
        if forward:
            data, body = forward + data[body:], len(forward)
        self._on_body(data, body)

    def _on_body(self, data: bytes, start: int = 0) -> None:
        """Forward a piece of a response; its body begins at `start`, and what is before that is the head."""
        client = self.client
        if client is None:
            return
        left = self.left
        if left >= 0:
            size = len(data) - start
            if size > left:
                data = data[: start + left]
                size = left
                self._persistent = False  # it talks out of turn
            self.left = left - size
        elif left == CHUNKED:
            data = self._chunked(client, data, start)
        if data:
            client.write(data)
        if not self.left and self.client is client:
            client.on_response_end()

    def _on_resumed_head(self, client: Exchange, head: ResponseHead, data: bytes, body: int) -> None:
        """The answer to a watch that goes on here: its head is not for the client, who has had one."""
        if client.on_resumed_head(head, data, body):
            self.left = CHUNKED
            self._persistent = not head.close
            if len(data) > body:
                self._on_body(data[body:])

    def _watched(self, client: Exchange, watch: Watch, data: bytes, start: int) -> bytes:
        """The whole events that are there with another piece of a watch's body, behind `data[:start]`."""
        body = watch.body
        try:
            events = body.feed(data, start)
        except BadMessageError:
            if start:
                client.write(data[:start])
            client.on_backend_gone(answered=True, reset=True)
            return b""
        if body.stream.refused:
            watch.relist = True  # it would be told that its version is gone
            client.resume_watch("")
            return b""
        if body.end >= 0:
            if not self.peer.usable and watch.can_resume():
                # It ends its watches because it is shutting down: others go on.
                client.write(data[:start] + events)
                client.resume_watch("")
                return b""
            self.left = DONE
            self._persistent = self._persistent and body.end == len(data)
            events += watch.last_chunk
        return data[:start] + events if start else events

    def _chunked(self, client: Exchange, data: bytes, start: int) -> bytes:
        """Walk over a piece of a chunked body; what of it goes to the client."""
        if client.watch is not None:
            return self._watched(client, client.watch, data, start)
        assert self._walk is not None
        sink = [data[:start]] if client.wants_plain_body else None
        try:
            end = self._walk.feed(data, start, sink)
        except BadMessageError as error:
            client.on_bad_response(error.reason)
            return b""
        if end >= 0:
            self.left = DONE
            self._walk = None
            if end < len(data):
                self._persistent = False
                data = data[:end]
        return data if sink is None else b"".join(sink)

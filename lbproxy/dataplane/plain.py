"""The exchange that most are, from its head to its end: a request without a body, answered in one piece.

It could go the long way (client.py, exchange.py, backend.py), and does as soon as anything about it is unusual: a
client that speaks meanwhile, an answer in pieces, a failure. What is here does the same in two functions instead of
twelve, with none of the questions whose answer is known, and costs half. Both ways lead to the same state at each point
where they can change over: after the request has been sent, and after the answer has.
"""

from __future__ import annotations

from bisect import bisect_left
from socket import SHUT_WR

from lbproxy.core.histogram import BOUNDS
from lbproxy.core.http1 import RequestBlock, RequestLine, ResponseHead, plain_response
from lbproxy.dataplane.exchange import Exchange
from lbproxy.dataplane.exchange_state import EXCHANGE
from lbproxy.dataplane.listener import NORMAL
from lbproxy.dataplane.relay import MSG_MORE
from lbproxy.dataplane.response import AWAITING_HEAD
from lbproxy.dataplane.timers import NEVER


class PlainExchange(Exchange):
    """`plain` is set from begin_plain on, and cleared by whatever makes it unusual."""

    __slots__ = ()

    def begin_plain(self, line: RequestLine, block: RequestBlock) -> None:
        """A request like one before, complete, with nothing behind it: as _begin, choose and _attach."""
        listener = self.listener
        if listener.admission is not None and line.herd:
            self._begin(line, block)
            return
        timers = listener.timers
        self.phase = EXCHANGE
        self.line = line
        self.block = block
        self.method = line.method
        self.plain = True
        self._close = block.close or listener.draining
        self._started = self._asked = now = timers.now
        self._status = self._bytes_in = self._bytes_out = self._body_left = 0
        self._retried = self._long = self._readable = False
        self._blamed = None
        selection = self._selection
        if selection is None:
            self._selection = selection = listener.pool.select(self._ip)
        else:
            selection.tried = 0
            selection.tier = listener.pool.primary
            selection.tries = listener.pool.tries
            selection.hash = -1  # ip_hash goes on from here, and a new walk does not
            selection.misses = 0
        peer = selection.pick(listener.reactor.second)
        if peer is None or not peer.idle:
            self.go_on_with(peer, selection)
            return
        self.peer = peer
        self._backend = backend = peer.idle.pop()
        self._source = backend.source
        peer.stats.total += 1
        backend.client = self
        backend.left = AWAITING_HEAD
        backend.requests += 1
        backend.deadline = NEVER
        try:
            if backend.write(line.forward + block.forward + self._tail):
                self.deadline = deadline = now + listener.timeouts.response_header
                if deadline < self.filed:
                    timers.file(self, deadline)
        except OSError:
            self.on_backend_gone(answered=False, reset=True, sent=False)

    def _begin(self, line: RequestLine, block: RequestBlock) -> None:
        """The long way."""
        raise NotImplementedError

    def answer_whole(self, head: ResponseHead, data: bytes, body: int) -> bool:
        """The answer, `data`, with its body at `body`: as begin_response, write and on_response_end.

        False, and nothing has been done, if its head takes more than that.
        """
        data = plain_response(head, data, body, close=self._close)
        if not data:
            return False
        size = len(data)
        listener = self.listener
        self._status = status = head.status
        kind = status // 100
        listener.classes[kind] += 1
        send = self._send
        # With the FIN that follows below it leaves as one segment: 1.5 µs less.
        try:
            sent = send(data, MSG_MORE) if self._close else send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._client_gone()
            return True
        if sent < size:
            self.out = data[sent:]
        backend, peer = self._backend, self.peer
        assert backend is not None
        assert peer is not None
        if peer.fails and self._selection is not None:
            self._selection.succeed(peer, listener.reactor.second)
        peer.conns -= 1
        stats = peer.stats
        stats.bytes_out += size
        seconds = listener.timers.now - self._asked
        stats.head_seconds += seconds
        peer.answers[kind][bisect_left(BOUNDS, seconds)] += 1  # as _count_answer
        self._backend = None
        backend.release()
        listener.stats.bytes_out += size
        listener.answered += 1
        access = listener.access
        if access is not None and access.at_close:
            self._bytes_out = size
            self._answered = listener.timers.now
            self._log(NORMAL)
        self.peer = None
        if self._close and not self.out:  # as next_request(), which would find nothing that speaks against it
            # Not left to close(), which comes at the batch's end: meanwhile the client reads, and what it has sent
            # and nobody read would make of a close a RST, with the answer still unsent.
            try:  # noqa: SIM105 - suppress() costs 0.3 µs
                self.sock.shutdown(SHUT_WR)
            except OSError:  # it is gone already
                pass
            self.close_now()
        else:
            self.next_request()
        return True

"""The exchange that most are, from its head to its end: a request without a body, answered in one piece.

It could go the long way (client.py, exchange.py, backend.py), and does as soon as anything about it is unusual: a
client that speaks meanwhile, an answer in pieces, a failure. What is here does the same in two functions instead of
twelve, with none of the questions whose answer is known, and costs half. Both ways lead to the same state at each point
where they can change over: after the request has been sent, and after the answer has.
"""

from __future__ import annotations

from bisect import bisect_left
from socket import SHUT_WR

from lbproxy.core.histogram import BOUNDS, SHORTEST
from lbproxy.core.http1 import RequestBlock, RequestLine, whole_answer
from lbproxy.core.peer import Peer
from lbproxy.dataplane.exchange import Exchange
from lbproxy.dataplane.exchange_state import EXCHANGE, READING
from lbproxy.dataplane.listener import NORMAL
from lbproxy.dataplane.response import AWAITING_HEAD, DONE
from lbproxy.dataplane.sockets import MSG_MORE
from lbproxy.dataplane.timers import NEVER


class PlainExchange(Exchange):
    """`plain` is set from begin_plain on, and cleared by whatever makes it unusual."""

    __slots__ = ()

    def begin_plain(self, line: RequestLine, block: RequestBlock, forward: bytes) -> None:
        """A request like one before, complete, with nothing behind it: as _begin, choose and _attach."""
        listener = self.listener
        if listener.admission is not None and line.herd:
            listener.reactor.send_all()
            if self.phase == READING:  # else it has gone before the answer to its last request
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
        ahead = listener.pool.ahead
        if ahead and ahead[-1].idle:  # as Selection.pick, without the selection
            self.peer = peer = ahead.pop()
            peer.conns += 1
            self._unnoted = True
        else:
            picked = self.restarted(b"").pick(listener.reactor.second)
            if picked is None or not picked.idle:
                self._begin_by_dial(picked)
                return
            self.peer = peer = picked
        self._backend = backend = peer.idle.pop()
        self._source = backend.source
        peer.stats.total += 1
        backend.client = self
        backend.left = AWAITING_HEAD
        backend.requests += 1
        backend.deadline = NEVER
        listener.reactor.outbox.append((backend.send, forward + self._tail, backend))
        self.deadline = deadline = now + listener.timeouts.response_header
        if deadline < self.filed:
            timers.file(self, deadline)

    def _begin_by_dial(self, peer: Peer | None) -> None:
        self.listener.reactor.send_all()
        if self.phase == EXCHANGE:
            self.go_on_with(peer)
        elif peer is not None:  # the client was gone before the answer to its last request
            peer.conns -= 1

    def _begin(self, line: RequestLine, block: RequestBlock) -> None:
        """The long way."""
        raise NotImplementedError

    def answer_plain(self, data: bytes, most: int) -> bool:
        """The answer: as parse_response_head, begin_response, write and on_response_end.

        False, and nothing has been done, if that takes more: it has come in pieces, or there may be more behind it.
        """
        size = len(data)
        listener = self.listener
        timers = listener.timers
        now = timers.now
        seconds = now - self._asked
        shape = whole_answer(data) if size < most else None
        if shape is None or not seconds:  # it answers in the batch that the request leaves with: out of turn
            self.plain = False
            return False
        close = self._close
        if close or shape.connection:
            data = shape.forward(data, close=close)
            size = len(data)
        self._status = shape.status
        kind = shape.kind
        listener.classes[kind] += 1
        if close:
            # With the FIN that follows below it leaves as one segment: 1.5 µs less.
            try:
                sent = self.send(data, MSG_MORE)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._client_gone()
                return True
            if sent < size:
                self.out = data[sent:]
        else:
            listener.reactor.outbox.append((self.send, data, self))
        backend, peer = self._backend, self.peer
        assert backend is not None
        assert peer is not None
        if peer.fails:
            self.selection.succeed(peer, listener.reactor.second)
        peer.conns -= 1
        stats = peer.stats
        stats.bytes_out += size
        stats.head_seconds += seconds
        peer.answers[kind][0 if seconds <= SHORTEST else bisect_left(BOUNDS, seconds)] += 1  # as _count_answer
        self._backend = None
        backend.left = DONE
        backend.release()
        listener.stats.bytes_out += size
        listener.answered += 1
        access = listener.access
        if access is not None and access.at_close:
            self._bytes_out = size
            self._answered = now
            self._log(NORMAL)
        self.peer = None
        if not close:  # as next_request(), which would find nothing that speaks against it
            self.phase = READING
            self._started = 0.0
            self.deadline = deadline = now + listener.timeouts.keepalive
            if deadline < self.filed:
                timers.file(self, deadline)
        elif self.out:
            self.next_request()
        else:
            # Not left to close(), which comes at the batch's end: meanwhile the client reads, and what it has sent
            # and nobody read would make of a close a RST, with the answer still unsent.
            try:  # noqa: SIM105 - suppress() costs 0.3 µs
                self.sock.shutdown(SHUT_WR)
            except OSError:  # it is gone already
                pass
            self.close_now()
        return True

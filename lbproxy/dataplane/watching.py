"""Watches that outlive their backend: the response goes on from another one, and the client sees nothing of it.

What is forwarded are whole events; what is remembered is the version to go on from (core/watch). When the backend
dies, the event that it did not finish is dropped, the watch is asked for at another backend from that version on, and
its events follow in the same response. Where that is not safe the response ends as it would without all this.
"""

from __future__ import annotations

from lbproxy.core.http1 import CHUNKED, ResponseHead
from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.core.watch import LAST_CHUNK, Answer, WatchBody, WatchRequest, judge_resumption, open_watch
from lbproxy.core.watch import parse_watch_request as parse
from lbproxy.core.watch.stream import MIN_AGE
from lbproxy.dataplane.exchange_state import EXCHANGE
from lbproxy.dataplane.relay import QUARTERS
from lbproxy.dataplane.request_body import RequestBody
from lbproxy.dataplane.timers import NEVER

TOO_MANY = 429  # the only error after which a reflector does not list again, when it asks for a watch


class Watch:
    """The response to a watch: what of it has been sent, and whether another backend is being asked to go on."""

    __slots__ = ("body", "framed", "relist", "request", "resuming", "started")

    def __init__(self, request: WatchRequest, body: WatchBody, framed: bool, started: float) -> None:
        self.request = request
        self.body = body
        self.framed = framed  # False: an HTTP/1.0 client, for whom the connection's end is the body's
        self.started = started
        self.resuming = False
        self.relist = False  # without us its client would have had to list again

    @property
    def last_chunk(self) -> bytes:
        return LAST_CHUNK if self.framed else b""

    def can_resume(self) -> bool:
        return self.body.stream.resume_from is not None

    def is_very_short(self, now: float) -> bool:
        """Whether a reflector that lost it now would list again: half an event more or less does not matter to it."""
        return not self.body.stream.events and now - self.started < MIN_AGE

    def request_line(self, now: float) -> bytes:
        """The line that asks for what is still to come."""
        version = self.body.stream.resume_from
        assert version is not None
        return b"GET " + self.request.resumed_target(version, now - self.started) + b" HTTP/1.1\r\n"


class WatchFailover(RequestBody):
    """The part of an exchange that keeps watches going."""

    __slots__ = ()

    def open_watch(self, head: ResponseHead, data: bytes, body: int) -> None:
        """A long stream is answered; `data[:body]` is its head. If it is a watch, whole events leave from now on."""
        line = self.line
        if head.status != 200 or head.length != CHUNKED or line is None or line.method != "GET":
            return
        request = parse(line.target)
        stream = None if request is None else open_watch(request, data[:body])
        if request is not None and stream is not None:
            framed = bool(line.minor)
            self.watch = Watch(request, WatchBody(stream, framed=framed), framed, self.listener.timers.now)
            self.listener.stats.relists_avoided += self._retried  # else the answer were a 502, which has it list again

    def resume_watch(self, reason: str, target: Peer | None = None, *, gone: bool = True) -> bool:
        """Ask another backend to go on. False, and nothing has been done, if there is no version to go on from.

        `reason` is what the backend is blamed for; "" for one that did nothing wrong. `target` is who is asked first.
        A backend that is not `gone` may have its watch back when all others refuse.
        """
        watch, backend, peer = self.watch, self._backend, self.peer
        if watch is None or not watch.can_resume():
            return False
        selection = self.selection
        if gone and watch.is_very_short(self.listener.timers.now):
            watch.relist = True
        if reason:
            self._blame(reason)
        elif peer is not None:
            peer.stats.long_streams -= 1
            selection.release(peer)
            self.peer = None
        lost = 0
        if not watch.resuming and not watch.body.stream.refused:
            selection.restart(selection.key)
            now, peers = self.listener.reactor.second, self.listener.pool.peers
            if peer is not None and gone and any(one.eligible(peer.bit, now) for one in peers):
                selection.tried = lost = peer.bit
        watch.resuming = True  # else the walk goes on: who has refused once is not asked again
        if backend is not None:
            self._detach(backend)
        if target is None:
            self.choose()
            selection.tried &= ~lost  # who was lost is not the first to be asked, but may be alive, and the only one
        else:
            selection.take(target)
            self.go_on_with(target)
        return True

    def leave(self, peer: Peer, quiet: float) -> bool:
        """Leave a backend that is not ready: go on elsewhere, or end as at the server's own timeout.

        False if neither is safe now. `quiet` is for how many seconds nothing has come.
        """
        watch = self.watch
        if watch is None or watch.resuming or self._backend is None:
            return False
        return self.resume_watch("", gone=False) or self.finish(quiet)

    def finish(self, quiet: float) -> bool:
        """End a watch as at the server's own timeout. False if its client would not take that for one now."""
        watch = self.watch
        if watch is None or watch.resuming:
            return False
        if not watch.body.stream.can_end(self.listener.timers.now - watch.started, quiet):
            return False
        self.listener.stats.watches_ended += 1
        self._end_cleanly(watch, b"", Termination.NORMAL)
        return True

    def move_to(self, peer: Peer) -> bool:
        """Go on at another backend, for evenness' sake."""
        watch = self.watch
        if watch is None or watch.resuming or self._backend is None or self.out:
            return False
        if not self.resume_watch("", peer, gone=False):
            return False
        self.listener.stats.watches_rebalanced += 1
        return True

    def on_resumed_head(self, head: ResponseHead, data: bytes, body: int) -> bool:
        """Another backend has answered. True: its body goes on where the last one's stopped."""
        watch, peer = self.watch, self.peer
        assert watch is not None
        if peer is not None:
            self._count_answer(peer, head.status)
        answer = judge_resumption(watch.body.stream, head.status, data[:body])
        if answer is Answer.GO_ON and head.length == CHUNKED:
            watch.resuming = False
            watch.body.resume()
            self.deadline = NEVER
            self.listener.stats.watches_resumed += 1
            self.listener.stats.relists_avoided += watch.relist
            watch.relist = False
            self._answered = self.listener.timers.now
            if self.listener.access is not None and self.listener.access.at_open:
                self._log_open()
            if self.listener.timeouts.idle:
                self._seen, self._quiet = -1, 0
                self.listener.timers.arm(self, self.listener.timeouts.idle / QUARTERS)
            if peer is not None and peer.fails:
                self.selection.succeed(peer, self.listener.reactor.second)
            return True
        if answer is Answer.END:
            self.end_watch()
        else:
            watch.relist = watch.relist or head.status != TOO_MANY
            self.resume_watch("")
        return False

    def end_watch(self) -> None:
        """Nobody goes on with it: end it as a server does at its timeout, if clients bear that here, else cut it."""
        watch = self.watch
        assert watch is not None
        self.listener.stats.watches_not_resumed += 1
        stream = watch.body.stream
        refusal = watch.body.give_in() if stream.refused else b""
        stream.release()  # of an event that came in part the client has seen nothing
        if not stream.can_end(self.listener.timers.now - watch.started, 0.0):
            self._abort(Termination.BACKEND_ABORT_DATA, reset=True)
            return
        self._end_cleanly(watch, refusal, Termination.BACKEND_ABORT_DATA)

    def _end_cleanly(self, watch: Watch, last_event: bytes, termination: Termination) -> None:
        """End the response as a server does at a watch's timeout; the connection stays open."""
        if self._backend is not None:
            self._drop_backend(reset=False)
        self._close = self._close or not watch.framed
        self.deadline = NEVER
        if last_event or watch.framed:
            self.write(last_event + watch.last_chunk)
        if self.phase == EXCHANGE:
            self._finish(termination)
            self.next_request()

    # -- what the exchange does ----------------------------------------------------------------------------------

    def choose(self) -> None:
        """Pick, and go on with an idle connection or a new one."""
        raise NotImplementedError

    def go_on_with(self, peer: Peer | None) -> None:
        """Use an idle connection of the backend that was picked, or dial."""
        raise NotImplementedError

"""A connection through a tcp listener: dial, relay, and one line that says how it went."""

from __future__ import annotations

from socket import SocketType

from lbproxy.core.peer import Peer
from lbproxy.core.pool import Selection
from lbproxy.core.termination import Termination
from lbproxy.dataplane.dial import Dial
from lbproxy.dataplane.listener import NORMAL, Listener
from lbproxy.dataplane.relay import Relay
from lbproxy.dataplane.sockets import local_address, reset_on_close


class TcpConnection(Relay):
    """Nothing is read from the client until a backend is connected, so any try may fail without loss.

    The client's socket is put under watch only then: a client that gives up earlier is noticed when the dial ends,
    at most retry.deadline later, and a dial's outcome never depends on the client's patience (nginx counts a dial
    that the client abandoned as a success, and so keeps a black-holed backend in rotation for ever).
    """

    __slots__ = ("_backend", "_dial", "_ip", "_picks", "_port", "_sock", "_started", "listener")

    def __init__(self, listener: Listener, sock: SocketType, ip: str, port: int) -> None:
        super().__init__(listener.reactor, listener.timeouts.idle, listener.timeouts.half_close)
        self.listener = listener
        self._sock = sock
        self._ip = ip
        self._port = port
        self._backend = ""
        self._started = listener.timers.now
        self._picks: Selection | None = None
        listener.enter(self)  # before the dial: that may fail at once
        self._dial: Dial | None = (dial := Dial(listener.dialer, self))
        ahead = listener.pool.ahead
        if ahead:  # as Selection.pick, without the selection: most connections never need it
            self.peer = first = ahead.pop()
            first.conns += 1
            dial.start(first)
        else:
            dial.start()

    @property
    def selection(self) -> Selection:
        """The walk through the backends that this connection is on."""
        picks = self._picks
        if picks is None:
            self._picks = picks = self.listener.pool.select(self._ip, self._ip.encode())
            if self._dial is None or self._dial.peer is not None:
                picks.tried = self.peer.bit
        return picks

    @property
    def began(self) -> float:
        return self._started

    @property
    def client_ip(self) -> str:
        return self._ip

    @property
    def client_address(self) -> str:
        return f"{self._ip}:{self._port}"

    @property
    def source(self) -> str:
        return "" if self._dial is not None else local_address(self.backend.sock)

    @property
    def backend_peer(self) -> Peer | None:
        return None if self._dial is not None else self.peer

    def drain(self) -> None:
        """Nothing to do: a relay ends when its ends do."""

    def close(self, termination: Termination) -> None:
        if self._dial is not None:
            self._dial.abort()
            self.on_dial_failed(termination)
        else:
            self.end(termination)

    def depends_on(self, peer: Peer) -> bool:
        return self._dial is None and self.peer is peer

    def on_backend_dead(self, peer: Peer) -> None:
        if self.depends_on(peer):
            self.end(Termination.BACKEND_DEAD)

    def move_to(self, peer: Peer) -> bool:
        """The client connects again, and is then given to a backend that has room."""
        self.end(Termination.REBALANCED)
        return True

    def on_end(self, termination: Termination) -> None:
        peer = self.peer
        if peer.fails:
            self.selection.succeed(peer, self.reactor.second)
        if self._picks is None and self.listener.pool.board is None:
            peer.conns -= 1
        else:
            self.selection.release(peer)
        stats, peer_stats = self.listener.stats, peer.stats
        bytes_in, bytes_out = self.client.bytes_read, self.backend.bytes_read
        stats.bytes_in += bytes_in
        stats.bytes_out += bytes_out
        peer_stats.bytes_in += bytes_in
        peer_stats.bytes_out += bytes_out
        if termination is not NORMAL:
            peer_stats.end(termination.value)
        self._account("close", termination, bytes_in, bytes_out)

    def on_connected(self, sock: SocketType, peer: Peer) -> None:
        self._dial = None
        self.peer = peer
        self._backend = peer.address.text
        peer.stats.total += 1
        peer.dialled += 1
        self.join(self._sock, sock)
        reactor = self.reactor
        reactor.handlers[sock.fileno()] = self.backend.on_event
        access = self.listener.access
        if access is not None and access.at_open:
            self._log("open", "", 0, 0)
        # What the client has said already goes out now, without waiting for its event. Put under watch afterwards, it
        # raises one for what is left: a FIN, or more.
        self.client.pump()
        if self.open:
            reactor.add(self._sock.fileno(), self.client.on_event)

    def on_dial_failed(self, termination: Termination) -> None:
        if self._dial is None:  # a bug, once the connection stood
            self.end(termination)
            return
        self._dial = None
        self.open = False
        reset_on_close(self._sock)
        self.reactor.close(self._sock)
        self.listener.no_backend += termination is Termination.NO_BACKEND
        self._account("close", termination, 0, 0)

    def _account(self, event: str, termination: Termination, bytes_in: int, bytes_out: int) -> None:
        listener = self.listener
        listener.leave(self)
        listener.count_end(termination)
        if listener.access is not None and listener.access.at_close:
            self._log(event, termination.value, bytes_in, bytes_out)

    def _log(self, event: str, end: str, bytes_in: int, bytes_out: int) -> None:
        listener = self.listener
        if listener.access is None:
            return
        backend, source = (f'"{self._backend}"', self.source) if self._backend else ("null", "")
        listener.access.write(
            f'"event":"{event}","mode":"tcp",{listener.label},"client":"{self._ip}","client_port":{self._port},'
            f'"backend":{backend},"source":"{source}","duration_s":{listener.timers.now - self._started:.3f},'
            f'"bytes_in":{bytes_in},"bytes_out":{bytes_out},"end":"{end}"'
        )

"""What an exchange becomes after 101 Switching Protocols: a relay (SPDY, WebSocket, whatever was agreed)."""

from __future__ import annotations

from socket import SocketType
from typing import TYPE_CHECKING

from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.half import LOOK
from lbproxy.dataplane.relay import Relay
from lbproxy.dataplane.sockets import local_address

if TYPE_CHECKING:
    from lbproxy.dataplane.exchange import Exchange


class UpgradedRelay(Relay):
    """What an exchange becomes after 101."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange, backend: SocketType) -> None:
        listener = exchange.listener
        super().__init__(listener.reactor, listener.timeouts.idle, listener.timeouts.half_close)
        self._exchange = exchange
        self.join(exchange.sock, backend)
        handlers = listener.reactor.handlers
        handlers[exchange.sock.fileno()] = self.client.on_event
        handlers[backend.fileno()] = self.backend.on_event

    def start(self, to_client: bytes, to_backend: bytes) -> None:
        """Send what was held, then move whatever has arrived meanwhile."""
        self.client.pending = to_client
        self.backend.pending = to_backend
        self.client.bytes_read, self.backend.bytes_read = len(to_backend), len(to_client)
        self.client.flush()
        if to_backend:
            self.backend.flush()
        elif self.open:
            self.client.pump(LOOK)

    @property
    def began(self) -> float:
        return self._exchange.began

    @property
    def client_ip(self) -> str:
        return self._exchange.client_ip

    @property
    def client_address(self) -> str:
        return self._exchange.client_address

    @property
    def source(self) -> str:
        return local_address(self.backend.sock)

    @property
    def backend_peer(self) -> Peer | None:
        return self._exchange.peer

    @property
    def stream_kind(self) -> str:
        return self._exchange.stream_kind

    def drain(self) -> None:
        """Nothing to do: a relay ends when its ends do."""

    def close(self, termination: Termination) -> None:
        self.end(termination)

    def depends_on(self, peer: Peer) -> bool:
        return self._exchange.peer is peer

    def on_backend_dead(self, peer: Peer) -> None:
        if self.depends_on(peer):
            self.end(Termination.BACKEND_DEAD)

    def move_to(self, peer: Peer) -> bool:
        """An exec session is not disturbed for the sake of evenness."""
        return False

    def on_end(self, termination: Termination) -> None:
        self._exchange.end_upgraded(self.client.bytes_read, self.backend.bytes_read, termination)
        self._exchange.listener.leave(self)

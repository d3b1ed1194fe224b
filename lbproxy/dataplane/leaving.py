"""What becomes of the connections to a backend that checks have found to be dead.

A master that loses power or its network says nothing: its connections look idle until TCP gives up, a client-go
behind HTTP/2 pings for 45 s first, and a watch just stops. So they are ended here, by RST, and the clients connect
again; watches go on elsewhere without their clients' knowledge. Spread over a moment: thousands of clients that come
back in the same millisecond are the next outage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lbproxy.core.config import OnDead
from lbproxy.core.health import Health
from lbproxy.core.pool import Peer, Pool
from lbproxy.dataplane.listener import Connection, Listener
from lbproxy.dataplane.reactor import Reactor
from lbproxy.dataplane.timers import NEVER, UNFILED


class Cut:
    """One connection's turn to be ended."""

    __slots__ = ("_connection", "_peer", "deadline", "filed")

    def __init__(self, connection: Connection, peer: Peer) -> None:
        self._connection = connection
        self._peer = peer
        self.deadline = NEVER
        self.filed = UNFILED

    def on_timeout(self) -> None:
        if self._peer.health is Health.DOWN:  # still
            self._connection.on_backend_dead(self._peer)


def cut_off(
    pool: Pool, peer: Peer, listeners: Iterable[Listener], reactor: Reactor, uniform: Callable[[float, float], float]
) -> int:
    """End what depends on a dead backend, within the pool's close_spread; how much that is.

    Nothing is ended when no other backend is known to be well: then it may be the checks that are wrong.
    """
    config = pool.config
    if config.on_dead is OnDead.KEEP or not any(other.usable for other in pool.peers if other is not peer):
        return 0
    for idle in list(peer.idle):
        idle.discard()
    victims = [
        connection
        for listener in listeners
        if listener.pool is pool
        for connection in listener.connections
        if connection.depends_on(peer)
    ]
    reactor.refresh()
    for connection in victims:
        reactor.timers.arm(Cut(connection, peer), uniform(0.0, config.close_spread))
    return len(victims)

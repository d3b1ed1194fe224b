"""Client connections for an operator: which there are, and an end to some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lbproxy.core.messages import ConnectionRow, Find, Found
from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.listener import Connection, Listener

MOST = 500  # rows of one answer: it has to fit into a message


def find(wanted: Find, listeners: Iterable[Listener], now: float) -> Found:
    """The connections that match, ended if that is wanted."""
    rows: list[ConnectionRow] = []
    count = 0
    for listener, connection, peer in list(_matching(wanted, listeners)):
        count += 1
        if len(rows) < MOST:
            backend = "" if peer is None else peer.address.text
            rows.append(
                ConnectionRow(
                    connection.client_address,
                    listener.config.name,
                    listener.pool.name,
                    backend,
                    "" if peer is None else connection.source,
                    connection.stream_kind,
                    round(now - connection.began, 1) if peer is not None else 0.0,
                    connection.bytes_moved,
                )
            )
        if wanted.end and not (peer is not None and connection.can_leave and connection.leave(peer, 0.0)):
            connection.close(Termination.SHUTDOWN_DATA)
    return Found(count, tuple(rows))


def _matching(wanted: Find, listeners: Iterable[Listener]) -> Iterator[tuple[Listener, Connection, Peer | None]]:
    for listener in listeners:
        if wanted.pool and listener.pool.name != wanted.pool:
            continue
        for connection in listener.connections:
            if wanted.client and wanted.client not in (connection.client_address, connection.client_ip):
                continue
            peer = connection.backend_peer
            if wanted.source and (peer is None or connection.source != wanted.source):
                continue
            if not wanted.backend or (peer is not None and peer.address.text == wanted.backend):
                yield listener, connection, peer

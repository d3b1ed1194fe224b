"""What a worker has counted, as the control plane is told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lbproxy.core.leases import LeaseReport
from lbproxy.core.messages import Stats, StreamStats
from lbproxy.core.pool import Pool
from lbproxy.dataplane.listener import Listener

INTERVAL = 5.0  # seconds between two counts of the long streams by kind and age

Streams = dict[str, list[dict[str, StreamStats]]]  # by pool, then for each backend by kind


class Statistics:
    """Puts the counters together, and remembers those that are dear."""

    def __init__(self) -> None:
        self._streams: Streams = {}
        self._count_streams_at = 0.0

    def forget(self) -> None:
        """What is remembered has the shape of an old configuration."""
        self._streams, self._count_streams_at = {}, 0.0

    def collect(self, pools: Mapping[str, Pool], listeners: Sequence[Listener], now: float) -> Stats:
        """The counters as they stand, but for those that only the worker knows."""
        no_backend: dict[str, int] = {}
        leases = LeaseReport()
        for listener in listeners:
            no_backend[listener.pool.name] = no_backend.get(listener.pool.name, 0) + listener.no_backend
            leases.add(listener.leases.report(now))
        return Stats(
            listeners=[listener.snapshot() for listener in listeners],
            pools={name: [peer.snapshot() for peer in pool.peers] for name, pool in pools.items()},
            accept_paused=sum(listener.accept_paused for listener in listeners),
            no_backend=no_backend,
            streams=self._recent_streams(pools, listeners, now),
            leases=leases,
        )

    def _recent_streams(self, pools: Mapping[str, Pool], listeners: Sequence[Listener], now: float) -> Streams:
        """Up to INTERVAL old: we are asked every second, and 10,000 watches take 3 ms."""
        if now >= self._count_streams_at:
            self._count_streams_at = now + INTERVAL
            self._streams = _streams(pools, listeners, now)
        return self._streams


def _streams(pools: Mapping[str, Pool], listeners: Sequence[Listener], now: float) -> Streams:
    """The long streams at each backend of each pool, by kind."""
    found: Streams = {name: [{} for _ in pool.peers] for name, pool in pools.items()}
    for listener in listeners:
        for connection in listener.connections:
            kind = connection.stream_kind
            if kind:
                for peer in listener.pool.peers:
                    if connection.depends_on(peer):
                        kinds = found[listener.pool.name][peer.index]
                        kinds.setdefault(kind, StreamStats()).note(now - connection.began)
    return found

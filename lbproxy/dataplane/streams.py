"""The long streams of a worker, by kind and age, as the control plane is told them.

It asks every second, and a walk through 10,000 watches takes milliseconds in which no request is served. So the walk
is made when streams have begun or ended since the last one, and at most every INTERVAL. What is kept of it is when
each began: ages are then a few bisections, whenever they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lbproxy.core.messages import StreamStats
from lbproxy.core.pool import Pool
from lbproxy.dataplane.listener import Listener

INTERVAL = 5.0  # seconds between two walks

Streams = dict[str, list[dict[str, StreamStats]]]  # by pool, then for each backend by kind


class LongStreams:
    """One worker's."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """What is remembered has the shape of an old configuration."""
        self._began: dict[str, list[dict[str, list[float]]]] = {}  # in order, for each as in Streams
        self._changes: list[tuple[int, int]] | None = None
        self._next_walk = 0.0

    def count(self, pools: Mapping[str, Pool], listeners: Sequence[Listener], now: float) -> Streams:
        """Those of the last walk, with the ages that they have now."""
        # Each beginning counts up the first for good, each end takes from the second: never are both as they were.
        changes = [(peer.begun, peer.stats.long_streams) for pool in pools.values() for peer in pool.peers]
        if changes != self._changes and now >= self._next_walk:
            self._changes = changes
            self._next_walk = now + INTERVAL
            self._began = _walk(pools, listeners)
        return {
            name: [{kind: StreamStats.of(began, now) for kind, began in kinds.items()} for kinds in backends]
            for name, backends in self._began.items()
        }


def _walk(pools: Mapping[str, Pool], listeners: Sequence[Listener]) -> dict[str, list[dict[str, list[float]]]]:
    found: dict[str, list[dict[str, list[float]]]] = {name: [{} for _ in pool.peers] for name, pool in pools.items()}
    for listener in listeners:
        backends = found[listener.pool.name]
        for connection in listener.connections:
            kind = connection.stream_kind
            if kind:
                peer = connection.backend_peer
                if peer is not None and not peer.removed:
                    backends[peer.index].setdefault(kind, []).append(connection.began)
    for kinds in (kinds for backends in found.values() for kinds in backends):
        for began in kinds.values():
            began.sort()
    return found

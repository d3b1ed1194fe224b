"""What a worker has counted, as the control plane is told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
        self._pauses = 0  # these three are of listeners that are gone: what has been counted is never less
        self._no_backend: dict[str, int] = {}
        self._leases = LeaseReport()

    def forget(self) -> None:
        """What is remembered has the shape of an old configuration."""
        self._streams, self._count_streams_at = {}, 0.0

    def keep(self, listener: Listener) -> None:
        """A listener that is in the configuration no more has lost its last connection."""
        self._pauses += listener.accept_paused
        _count_no_backend(listener, self._no_backend)
        self._leases.add(replace(listener.leases.report(0.0), shown=[], known=0))

    def collect(
        self,
        pools: Mapping[str, Pool],
        listeners: Sequence[Listener],
        retired: Sequence[Listener],
        now: float,
        *,
        alone: bool,
    ) -> Stats:
        """The counters as they stand, but for those that only the worker knows.

        `retired` are listeners that are in the configuration no more, and have connections. `alone`: there is no other
        worker.
        """
        no_backend = dict(self._no_backend)
        leases = replace(self._leases)
        for listener in (*listeners, *retired):
            _count_no_backend(listener, no_backend)
            leases.add(listener.leases.report(now))
        if alone:
            leases.trim()  # else the others' are needed first
        return Stats(
            listeners=[listener.snapshot() for listener in listeners],
            pools={name: [peer.snapshot() for peer in pool.peers] for name, pool in pools.items()},
            accept_paused=self._pauses + sum(listener.accept_paused for listener in (*listeners, *retired)),
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


def _count_no_backend(listener: Listener, counts: dict[str, int]) -> None:
    name = listener.pool.name
    counts[name] = counts.get(name, 0) + listener.no_backend


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

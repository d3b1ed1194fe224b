"""What a worker has counted, as the control plane is told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lbproxy.core.leases import LeaseReport
from lbproxy.core.messages import Stats
from lbproxy.core.pool import Pool
from lbproxy.dataplane.listener import Listener
from lbproxy.dataplane.streams import LongStreams


class Statistics:
    """Puts the counters together."""

    def __init__(self) -> None:
        self.streams = LongStreams()
        self._pauses = 0  # these three are of listeners that are gone: what has been counted is never less
        self._no_backend: dict[str, int] = {}
        self._leases = LeaseReport()

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
            streams=self.streams.count(pools, listeners, now),
            leases=leases,
        )


def _count_no_backend(listener: Listener, counts: dict[str, int]) -> None:
    name = listener.pool.name
    counts[name] = counts.get(name, 0) + listener.no_backend

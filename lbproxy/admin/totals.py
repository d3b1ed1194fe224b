"""One set of counters from many workers, dead ones included: a total never goes down because a worker was replaced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TypeVar

from lbproxy.core.config import Config
from lbproxy.core.messages import BackendStats, ListenerStats, Stats, StreamStats

Key = TypeVar("Key", int, str, tuple[str, int])
Number = TypeVar("Number", int, float)

_GAUGES = frozenset({"active", "long_streams", "idle"})


def empty(config: Config) -> Stats:
    """Zeroes in the shape of a configuration."""
    return Stats(
        listeners=[ListenerStats() for _ in config.listeners],
        pools={pool.name: [BackendStats() for _ in pool.backends] for pool in config.pools},
    )


def reshape(stats: Stats, old: Config, new: Config) -> Stats:
    """Counters in the shape of another configuration: what is not in it is left out, what is new begins with zeroes.

    Long streams are left out; they are counted anew within seconds.
    """
    listeners = {one.name: counters for one, counters in zip(old.listeners, stats.listeners, strict=True)}
    backends = {
        (pool.name, backend.address.text): counters
        for pool in old.pools
        for backend, counters in zip(pool.backends, stats.pools[pool.name], strict=True)
    }
    names = {pool.name for pool in new.pools}
    return replace(
        stats,
        listeners=[listeners.get(one.name) or ListenerStats() for one in new.listeners],
        pools={
            pool.name: [backends.get((pool.name, one.address.text)) or BackendStats() for one in pool.backends]
            for pool in new.pools
        },
        no_backend={name: count for name, count in stats.no_backend.items() if name in names},
        streams={},
    )


def add(total: Stats, more: Stats, *, gauges: bool = True) -> None:
    """Add one worker's counters to a total; without its gauges when that worker is gone."""
    for mine, theirs in zip(total.listeners, more.listeners, strict=True):
        _add(mine, theirs, gauges=gauges)
    for name, peers in more.pools.items():
        for mine_b, theirs_b in zip(total.pools[name], peers, strict=True):
            _add(mine_b, theirs_b, gauges=gauges)
    total.accept_paused += more.accept_paused
    total.internal_errors += more.internal_errors
    total.log_dropped += more.log_dropped
    _add_counts(total.no_backend, more.no_backend)
    if gauges:
        _add_streams(total, more)
    total.leases.add(more.leases if gauges else replace(more.leases, shown=[], known=0))


def sum_of(config: Config, stats: Iterable[Stats]) -> Stats:
    """The total of several workers."""
    total = empty(config)
    for one in stats:
        add(total, one)
    total.leases.trim()
    return total


def _add(mine: ListenerStats | BackendStats, theirs: ListenerStats | BackendStats, *, gauges: bool) -> None:
    for field in fields(mine):
        if field.name in _GAUGES and not gauges:
            continue
        value = getattr(theirs, field.name)
        if isinstance(value, dict):
            _add_counts(getattr(mine, field.name), value)
        else:
            setattr(mine, field.name, getattr(mine, field.name) + value)


def _add_streams(total: Stats, more: Stats) -> None:
    for name, backends in more.streams.items():
        mine = total.streams.setdefault(name, [{} for _ in backends])
        for kinds, theirs in zip(mine, backends, strict=True):
            for kind, streams in theirs.items():
                kinds.setdefault(kind, StreamStats()).add(streams)


def _add_counts(mine: dict[Key, Number], theirs: dict[Key, Number]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count

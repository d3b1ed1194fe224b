"""What one scrape is made of: asked of the view in one go, so that it is of one moment and one configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lbproxy.admin.view import BackendView, View, WorkerView
from lbproxy.core.config import Config
from lbproxy.core.histogram import Histogram
from lbproxy.core.messages import BackendStats, ListenerStats, Stats

Labels = list[str]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The view's answers."""

    config: Config
    stats: Stats
    backends: dict[str, list[BackendView]]
    fail_opens: dict[str, tuple[bool, int]]
    workers: list[WorkerView]
    answers: Histogram
    restarts: int
    log_dropped: int
    started_at: float
    loaded_at: float
    config_is_refused: bool
    draining: bool

    @classmethod
    def of(cls, view: View, stats: Stats) -> Scrape:
        return cls(
            config=view.config,
            stats=stats,
            backends=view.pools(),
            fail_opens=view.fail_opens(),
            workers=view.workers(),
            answers=view.answers(),
            restarts=view.restarts(),
            log_dropped=view.log_dropped(),
            started_at=view.started_at,
            loaded_at=view.loaded_at,
            config_is_refused=view.config_error is not None,
            draining=view.draining,
        )

    def each_listener(self) -> Iterator[tuple[Labels, ListenerStats]]:
        """The label of each listener, and its counters."""
        for listener, counters in zip(self.config.listeners, self.stats.listeners, strict=True):
            yield [listener.name], counters

    def each_backend(self) -> Iterator[tuple[Labels, BackendView, BackendStats]]:
        """The labels of each backend of each pool, what is known of it, and its counters."""
        for pool in self.config.pools:
            for view, counters in zip(self.backends[pool.name], self.stats.pools[pool.name], strict=True):
                yield [pool.name, view.config.address.text], view, counters

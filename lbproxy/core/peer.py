"""One backend at run time, and the tiers that backends stand in: nginx's struct, under the field's names."""

from __future__ import annotations

from typing import Any

from lbproxy.core.config import Backend, BackendState
from lbproxy.core.health import Health
from lbproxy.core.histogram import BUCKETS, Histogram, sparse
from lbproxy.core.messages import BackendStats

GONE = -1  # the index of a peer that is in no pool
_NO_ANSWERS = [0] * BUCKETS


class Peer:
    """One backend as this worker sees it. Counters of nginx's struct, under the field's names."""

    __slots__ = (
        "accessed",
        "address",
        "answers",
        "backup",
        "begun",
        "bit",
        "checked",
        "config",
        "connects",
        "conns",
        "current_weight",
        "dialled",
        "effective_weight",
        "elsewhere",
        "fail_timeout",
        "fails",
        "health",
        "idle",
        "index",
        "max_connections",
        "max_fails",
        "share",
        "state",
        "stats",
        "usable",
        "weight",
        "worth",
    )

    def __init__(self, index: int, config: Backend, bit: int = 0) -> None:
        self.bit = bit or 1 << index
        self.address = config.address
        self.share = 1.0  # of what it gets by its weight; less while it starts slowly
        self.conns = 0
        self.elsewhere = 0  # connections of other workers, as of the last pick; only where picks depend on it
        self.fails = 0
        self.accessed = 0
        self.checked = 0
        self.health = Health.UNKNOWN
        self.stats = BackendStats()
        self.begun = 0  # long streams, ever
        self.answers = [[0] * BUCKETS for _ in range(6)]  # by status // 100, and by how long the head took
        self.connects = Histogram()  # how long the dials took that went well
        self.dialled = 0  # connections or requests that got a connection made for them
        self.idle: list[Any] = []  # the data plane's kept-alive connections, newest last
        self.configure(index, config)

    def configure(self, index: int, config: Backend) -> None:
        """Take on what lb.yaml says of it; `index` is its place in the pool."""
        self.index = index
        self.config = config
        self.weight = self.effective_weight = config.weight
        self.current_weight = 0
        self.worth = config.weight * self.share  # weight x share
        self.backup = config.backup
        self.max_connections = config.max_connections
        self.max_fails = config.max_fails
        self.fail_timeout = int(config.fail_timeout)
        self.state = config.state
        self.judge()

    def snapshot(self) -> BackendStats:
        """The counters, complete."""
        stats = self.stats
        stats.active = self.conns
        stats.idle = len(self.idle)
        stats.reused = stats.total - self.dialled
        if self.connects.count:
            stats.dials.update((("ok", bucket), count) for bucket, count in sparse(self.connects.buckets).items())
            stats.dial_seconds["ok"] = self.connects.seconds
        answers = [(kind, row) for kind, row in enumerate(self.answers) if row != _NO_ANSWERS]
        stats.responses = {kind: sum(row) for kind, row in answers}
        stats.heads = sparse(
            answers[0][1] if len(answers) == 1 else map(sum, zip(*(row for _, row in answers), strict=True))
        )
        return stats

    def begin_stream(self) -> None:
        """One more long stream is here."""
        self.stats.long_streams += 1
        self.begun += 1

    def judge(self) -> None:
        """Whether it may be picked, by what the operator and the checks say."""
        self.usable = self.state is BackendState.READY and self.health in (Health.UNKNOWN, Health.UP)

    @property
    def alive(self) -> bool:
        """Not ready, but better than a dead one."""
        return self.state is BackendState.READY and self.health is Health.NOT_READY

    @property
    def lost(self) -> bool:
        """Dead, or taken away by the operator: what is under way there is not waited for."""
        return not self.removed and (self.health is Health.DOWN or self.state is BackendState.MAINT)

    @property
    def removed(self) -> bool:
        """Not a member of the pool any more: what it serves still counts, and nothing new comes."""
        return self.index < 0

    def eligible(self, tried: int, now: int) -> bool:
        """nginx's test: not tried yet, not down, not over its failures or its connections."""
        return (
            not tried & self.bit
            and self.usable
            and not (self.max_fails and self.fails >= self.max_fails and now - self.checked <= self.fail_timeout)
            and not (self.max_connections and self.conns + self.elsewhere >= self.max_connections)
        )


class Tier:
    """The primary or the backup peers of a pool, in the order of the configuration."""

    __slots__ = ("peers", "single", "weight")

    def __init__(self, peers: list[Peer], *, single: bool) -> None:
        self.peers = peers
        self.weight = sum(peer.weight for peer in peers)
        self.single = single  # one peer and no backup tier: nginx then never counts failures

"""What the admin endpoint may see of the control plane. It asks; it changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lbproxy.core.check_counts import CheckCounts
from lbproxy.core.config import Backend, BackendState, Config
from lbproxy.core.health import CheckReport, Health
from lbproxy.core.histogram import Histogram
from lbproxy.core.messages import Stats

if TYPE_CHECKING:
    from lbproxy.admin.events import RecentEvents
    from lbproxy.admin.history import History


@dataclass(frozen=True, slots=True)
class BackendView:
    """One backend: what the operator configured, what the checks say, since when and why."""

    config: Backend
    health: Health
    reason: str
    since: float  # seconds since the epoch
    last: CheckReport | None
    recent: tuple[CheckReport, ...] = ()  # the last checks, newest last
    checks: CheckCounts = field(default_factory=CheckCounts)
    downtime: float = 0.0  # seconds that it was not ready or down

    @property
    def eligible(self) -> bool:
        """Whether new connections go to it while it is not full."""
        return self.config.state is BackendState.READY and self.health in (Health.UNKNOWN, Health.UP)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker process; `number` is its place, which its replacement takes."""

    number: int
    pid: int
    ready: bool
    stats: Stats


class View(Protocol):
    """Implemented by the composition root."""

    config: Config
    config_path: str
    config_sha256: str
    config_error: str | None  # why the last reload was refused
    loaded_at: float  # seconds since the epoch
    started_at: float
    draining: bool
    history: History
    events: RecentEvents
    upgraded_from: str  # the version that this process was before, or ""

    @property
    def upgrade_error(self) -> str | None:
        """Why the last upgrade came to nothing."""

    @property
    def handing_over(self) -> int:
        """Workers of that version that still have connections."""

    def pools(self) -> dict[str, list[BackendView]]:
        """The backends of each pool, in the order of the configuration."""

    def is_set_at_runtime(self, pool: str, address: str) -> bool:
        """Whether an operator has set something of that backend over lb.yaml."""

    def fail_opens(self) -> dict[str, tuple[bool, int]]:
        """For each pool whether it fails open now, and how often it has begun to."""

    def workers(self) -> list[WorkerView]:
        """The running workers."""

    def answers(self) -> Histogram:
        """How long workers have taken to answer."""

    def restarts(self) -> int:
        """Workers that died and were replaced."""

    def log_dropped(self) -> int:
        """Log lines lost because stdout was not read."""

    async def counters(self) -> Stats:
        """Totals over all workers, past ones included."""

    def known_counters(self) -> Stats:
        """The same without asking the workers: as of the last look, at most a second ago."""

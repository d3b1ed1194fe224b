"""A pool at run time, in one worker: its peers, and one walk of a connection or request through them.

The state and its rules are nginx's, so that decisions are nginx's: see the sections of docs/balancing.md. What differs
is said where it differs, and none of it shows while every backend is healthy:

- `usable` joins nginx's `down` with what health checks and the operator say at run time.
- A pool with `all_down: try` makes a last-resort walk when nginx would say "no live upstreams", over those that are
  alive. Who is dead for the health checks is not dialled: nobody is to wait for a corpse.
- A backend that comes back gets a share that grows for `slow_start` seconds, as with HAProxy's slowstart.

`now` is whole seconds on any steady clock, as nginx's cached time is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lbproxy.core.balance import PICKERS, Picker
from lbproxy.core.balance.round_robin import RoundRobin
from lbproxy.core.board import Board
from lbproxy.core.config import Address, Algorithm, AllDown, Backend, BackendState
from lbproxy.core.config import Pool as PoolConfig
from lbproxy.core.health import Health
from lbproxy.core.peer import GONE, Peer, Tier


class Pool:
    """The peers, and the algorithm bound once."""

    __slots__ = (
        "_bits",
        "_column",
        "_former",
        "_round_robin",
        "ahead",
        "backup",
        "board",
        "config",
        "fail_open",
        "gated",
        "name",
        "peers",
        "picker",
        "primary",
        "randrange",
        "starting",
        "tries",
    )

    config: PoolConfig
    primary: Tier
    backup: Tier | None

    def __init__(self, config: PoolConfig, randrange: Callable[[int], int]) -> None:
        self.name = config.name
        self.randrange = randrange
        self.board: Board | None = None  # where other workers' connections are read from, if picks depend on them
        self._column = 0
        self.ahead: list[Peer] = []  # round robin's next picks, last one first, while they are foreseeable
        self.fail_open = False  # the control plane says so: nobody is ready, for a reason that all share
        self.starting: dict[Peer, int] = {}  # who starts slowly, and since which second
        self._bits = 0  # given out
        self._former: dict[str, Peer] = {}  # removed, and not without connections then
        self.peers: list[Peer] = []
        self._round_robin: RoundRobin | None = None
        self.configure(config)

    def configure(self, config: PoolConfig) -> list[Peer]:
        """Take on what lb.yaml says now, and give back the peers that are in it no more.

        A backend whose address stays is the same peer: its connections, health, failures and counters stay; one that
        comes back while connections to it are still open is, too. The order
        of picks begins anew, as after nginx's reload, unless nothing has changed that it depends on. A walk that is
        under way goes on with those that it has not tried.
        """
        self.rewind()
        known = self._former | {peer.address.text: peer for peer in self.peers}
        same = bool(self.peers) and (config.backends, config.balance) == (self.config.backends, self.config.balance)
        self.config = config
        self.tries = config.retry.tries or len(config.backends)  # of one walk
        if same:
            return []
        self.peers = [
            self._configured(known.pop(backend.address.text, None), index, backend)
            for index, backend in enumerate(config.backends)
        ]
        backups = [peer for peer in self.peers if peer.backup]
        primaries = [peer for peer in self.peers if not peer.backup]
        self.primary = Tier(primaries, single=len(primaries) == 1 and not backups)
        self.backup = Tier(backups, single=False) if backups else None
        self.picker: Picker = PICKERS[config.balance.algorithm](self)
        self._round_robin = self.picker if isinstance(self.picker, RoundRobin) else None
        self.gated = config.balance.algorithm in _GATED
        gone = self._remove(peer for peer in known.values() if not peer.removed)
        self._former = {text: peer for text, peer in known.items() if peer.conns}
        return gone

    @property
    def peers_and_former(self) -> list[Peer]:
        """Those that the configuration has, and those it had that still have connections."""
        return [*self.peers, *self._former.values()]

    @property
    def tries_unready(self) -> bool:
        """Whether a walk that has found nobody else ends with who is alive and not ready."""
        return self.fail_open or self.config.all_down is AllDown.TRY

    @property
    def in_use(self) -> list[Peer]:
        """Who is given traffic now: the usable, or if there are none, and the pool tries them, who is alive."""
        usable = [peer for peer in self.peers if peer.usable]
        if usable or not self.tries_unready:
            return usable
        return [peer for peer in self.peers if peer.alive]

    def named(self, address: str) -> Peer:
        """The peer of an address. A process before this one may have had it when the configuration did."""
        for peer in self.peers:
            if peer.address.text == address:
                return peer
        if address not in self._former:
            self._former[address] = peer = self._configured(None, GONE, Backend(Address(address)))
            self._remove([peer])
        return self._former[address]

    def dissolve(self) -> list[Peer]:
        """The pool is in lb.yaml no more; its peers."""
        self.rewind()
        return self._remove(self.peers)

    def _remove(self, peers: Iterable[Peer]) -> list[Peer]:
        gone = list(peers)
        for peer in gone:
            peer.index = GONE
            peer.usable = False
            peer.state = BackendState.MAINT  # not in the last resort either
            self.starting.pop(peer, None)
        return gone

    def _configured(self, peer: Peer | None, index: int, config: Backend) -> Peer:
        if peer is None:
            # No number is used twice: a walk that is under way remembers whom it has tried by their bits.
            peer = Peer(index, config, 1 << self._bits)
            self._bits += 1
        else:
            peer.configure(index, config)
        return peer

    def select(self, client: str = "", key: bytes = b"") -> Selection:
        """Begin the walk of one connection or request; `client` is its IP address as text, `key` what is hashed."""
        return Selection(self, client, key)

    def share(self, board: Board | None, column: int) -> None:
        """Count with the other workers; `column` is the first backend's. None: there are no others."""
        self.board = board
        self._column = column
        if board is not None:
            for peer in self.peers:
                self.tell(board, peer)

    def look_elsewhere(self, board: Board) -> None:
        """See how many connections other workers have."""
        for peer in self.peers:
            peer.elsewhere = board.elsewhere(self._column + peer.index)

    def tell(self, board: Board, peer: Peer) -> None:
        """Let the others see ours."""
        if not peer.removed:
            board.put(self._column + peer.index, peer.conns)

    def look_ahead(self) -> bool:
        """Fill `ahead`, if the next first picks of walks are foreseeable."""
        return self._round_robin is not None and self._round_robin.look_ahead()

    def rewind(self) -> None:
        """Something that picks depend on is about to change."""
        if self.ahead and self._round_robin is not None:
            self._round_robin.rewind()

    def set_health(self, index: int, health: Health, clear_failures: bool = False, now: int = 0) -> None:
        """What the checks say. `clear_failures` forgets what live traffic held against the backend."""
        self.rewind()
        peer = self.peers[index]
        if health is not Health.UP:
            self._full_share(peer)
        elif (
            self.config.slow_start
            and peer.health in (Health.DOWN, Health.NOT_READY)
            and any(other.usable and other not in self.starting for other in self.peers)  # else it is needed at once
        ):
            self.starting[peer] = now
        peer.health = health
        peer.judge()
        if clear_failures:
            peer.fails = peer.accessed = peer.checked = 0
            peer.effective_weight = peer.weight

    def start_slowly(self, now: int) -> None:
        """Set the shares of those who have come back: linear in time, from nearly nothing to all."""
        seconds = int(self.config.slow_start)
        for peer, since in list(self.starting.items()):
            if now - since >= seconds:
                self._full_share(peer)
            else:
                peer.share = (now - since + 1) / (seconds + 1)
                peer.worth = peer.weight * peer.share

    def _full_share(self, peer: Peer) -> None:
        self.starting.pop(peer, None)
        peer.share, peer.worth = 1.0, peer.weight

    def set_state(self, index: int, state: BackendState) -> None:
        """What the operator says."""
        self.rewind()
        peer = self.peers[index]
        peer.state = state
        peer.judge()


class Selection:
    """One walk. pick() until it answers None; each pick ends in exactly one fail() or release().

    `hash`, `rounds` and `misses` are the hash algorithms' memory between the picks of one walk.
    """

    __slots__ = ("client", "hash", "key", "misses", "pool", "rounds", "tier", "tried", "tries")

    def __init__(self, pool: Pool, client: str, key: bytes) -> None:
        self.pool = pool
        self.client = client
        self.restart(key)

    def restart(self, key: bytes) -> None:
        """Begin a new walk for the same client: cheaper than another object for each request of a connection."""
        self.key = key
        self.tier = self.pool.primary
        self.tried = 0
        self.tries = self.pool.tries
        self.hash = -1
        self.rounds = 0
        self.misses = 0

    def _go_on(self) -> None:
        """Begin again, but for whom the walk has tried."""
        tried, tries = self.tried, self.tries
        self.restart(self.key)
        self.tried, self.tries = tried, tries

    def pick(self, now: int) -> Peer | None:
        """Choose a backend and count the connection on it, or None when there is none left to try."""
        pool = self.pool
        if not self.tried:
            ahead = pool.ahead
            if ahead or pool.look_ahead():
                # Nobody has failed, so nothing is to be remembered of `now`: a failure will write it anyway.
                foreseen = ahead.pop()
                self.tried = foreseen.bit
                foreseen.conns += 1
                return foreseen
        elif self.tries <= 0:
            return None
        pool.rewind()
        if self.tier is not pool.primary and self.tier is not pool.backup:  # the pool was configured anew meanwhile
            self._go_on()
        board = pool.board
        if board is not None:
            pool.look_elsewhere(board)
        if pool.starting:
            pool.start_slowly(now)
        peer = pool.picker.pick(self, now)
        if peer is None:
            peer = self._beyond(now)
            if peer is None:
                return None
        elif peer.share < 1.0 and pool.gated:
            peer = self._spare(peer, now)
        self.tried |= peer.bit
        peer.conns += 1
        if board is not None:
            pool.tell(board, peer)
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now
        return peer

    def another(self, now: int, *, well: bool = True) -> bool:
        """Whether pick() would find somebody once the last one has been given back: `well`, or at least alive."""
        pool = self.pool
        if self.tries <= 1:
            return False
        left = pool.peers if self.tier is not pool.backup else pool.backup.peers
        if any(one.eligible(self.tried, now) for one in left):
            return True
        return not well and pool.tries_unready and self._last_resort() is not None

    def take(self, peer: Peer) -> None:
        """As pick(), of a given peer: the walk begins with it."""
        self.pool.rewind()
        self.tried |= peer.bit
        peer.conns += 1
        if self.pool.board is not None:
            self.pool.tell(self.pool.board, peer)

    def succeed(self, peer: Peer, now: int) -> None:
        """The backend did its part: at connect (tcp), at the response's head (http), and at the end.

        nginx's http module waits for the end; then a watch that happens to be the probe of a returning backend
        keeps all other traffic away from it for as long as it lives.
        """
        if peer.accessed < peer.checked or self.pool.primary.single:
            peer.fails = 0

    def fail(self, peer: Peer, now: int) -> None:
        """The try failed; ends it."""
        if not self.pool.primary.single:
            self.pool.rewind()
            peer.fails += 1
            peer.accessed = peer.checked = now
            if peer.max_fails:
                peer.effective_weight = max(0, peer.effective_weight - peer.weight // peer.max_fails)
        self.release(peer)

    def release(self, peer: Peer) -> None:
        """The try is over, without a verdict."""
        peer.conns -= 1
        self.tries -= 1
        board = self.pool.board
        if board is not None:
            self.pool.tell(board, peer)

    def _spare(self, peer: Peer, now: int) -> Peer:
        """One that starts slowly: somebody else instead, in all but its share of the cases."""
        pool = self.pool
        if pool.randrange(1000) < peer.share * 1000:
            return peer
        tried = self.tried
        self.tried = tried | peer.bit
        other = pool.picker.pick(self, now)
        self.tried = tried
        return peer if other is None else other

    def _beyond(self, now: int) -> Peer | None:
        """The primary tier has nobody: the backup tier, for the rest of this walk, then the last resort."""
        backup = self.pool.backup
        if backup is not None and self.tier is not backup:
            self.tier = backup
            peer = self.pool.picker.pick(self, now)
            if peer is not None:
                return peer
        return self._last_resort() if self.pool.tries_unready else None

    def _last_resort(self) -> Peer | None:
        """Nobody is eligible: somebody alive, who is ready rather than not, and the least recently blamed first."""
        best: Peer | None = None
        for peer in self.pool.peers:
            if (
                self.tried & peer.bit
                or peer.health is Health.DOWN
                or peer.state is not BackendState.READY
                or (peer.max_connections and peer.conns + peer.elsewhere >= peer.max_connections)
            ):
                continue
            if best is None or _hope(peer) < _hope(best):
                best = peer
        return best


# Where a share is given by leaving a peer out of walks. The least connected is found by `worth`; hashes stay put.
_GATED = frozenset({Algorithm.ROUND_ROBIN, Algorithm.RANDOM})


def _hope(peer: Peer) -> tuple[bool, int, int]:
    return peer.health is Health.NOT_READY, peer.accessed, peer.conns + peer.elsewhere

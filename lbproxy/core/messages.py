"""What the control plane and a worker say to each other.

The channel is a SOCK_SEQPACKET pair made by the control plane: one message, one packet, no framing of our own. Both
ends are one version of one program and parent and child, so the encoding is pickle: no peer outside can write here.
"""

from __future__ import annotations

import pickle
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from lbproxy.core.config import Config
from lbproxy.core.health import Health
from lbproxy.core.histogram import BOUNDS
from lbproxy.core.leases import LeaseReport

# Bytes of the largest message: a packet must fit into SO_SNDBUF, which an unprivileged process gets 208 KiB of.
# A configuration with a thousand backends takes about half of it. Counters come in parts if need be.
MAX_MESSAGE = 192 * 1024
PART = MAX_MESSAGE - 1024  # bytes of a larger message in one packet
MAX_FDS = 250  # that come with a message; the kernel takes 253
KEPT = -1  # a listening socket that a worker has already
RETRIES = ("dial", "stale", "closed", "refused")  # why something is tried again: see BackendStats.retry
DIALS = ("ok", "refused", "timeout", "error")  # how a dial ends
AGES = (60.0, 600.0, 3600.0)  # seconds: long streams are counted by these ages


# -- control plane to worker -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetHealth:
    """A health transition, or (`clear_failures`) an answer that wipes what passive checks held against a backend."""

    pool: str
    backend: int
    health: Health
    clear_failures: bool


@dataclass(frozen=True, slots=True)
class SetFailOpen:
    """No backend of the pool is ready: use those that are alive, whatever `all_down` says."""

    pool: str
    fail_open: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's row on the board that all share (core/board.py), which is the file `fd`."""

    fd: int
    row: int
    rows: int


@dataclass(frozen=True, slots=True)
class Configure:
    """The first message: everything a worker needs. `listen_fds[i]` are the inherited fds of `config.listeners[i]`."""

    config: Config
    listen_fds: tuple[tuple[int, ...], ...]
    access_log_fd: int | None  # a pipe to the control plane, or None with the access log off
    place: Place | None = None  # None: it is the only worker
    health: tuple[
        SetHealth | SetFailOpen, ...
    ] = ()  # what is known already: a worker must not begin by dialing the dead
    generation: int = 0  # of the configuration: counted up by each reload


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """A new configuration: what is the same in it stays as it is, with its connections.

    `listen` has a number for each address of each listener: KEPT, or which of the descriptors that come with this
    message it is. With a `place`, the board's file is the last of them. `health` is as in Configure, and needed for
    backends that are new to the worker.
    """

    generation: int
    config: Config
    listen: tuple[tuple[int, ...], ...]
    place: Place | None
    health: tuple[SetHealth | SetFailOpen, ...]


@dataclass(frozen=True, slots=True)
class GetStats:
    """Asks for `Stats`."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop accepting; let connections end for `seconds`, then close what is left and exit. 0 is at once."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give all connections to the worker at the other end of the socket that comes with this, once it says hello.

    Those that cannot move within `seconds` are closed. Until the hello, and if it never comes, nothing changes.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Take the connections of the worker at the other end of the socket that comes with this. Ends in TakenOver."""


@dataclass(frozen=True, slots=True)
class Find:
    """Asks for `Found`: the client connections that match. `end` ends them; "" matches everything.

    `backend` is an address as lb.yaml has it, `client` an address, or an address and port, `source` where the backend
    sees the connection come from.
    """

    pool: str = ""
    backend: str = ""
    client: str = ""
    source: str = ""
    end: bool = False


# -- worker to control plane -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker accepts connections."""


@dataclass(frozen=True, slots=True)
class BackendFailed:
    """A passive failure: a dial that was refused or timed out, a response that never came."""

    pool: str
    backend: int
    reason: str
    generation: int = 0  # of the configuration in which `backend` has that number


@dataclass(frozen=True, slots=True)
class TakenOver:
    """All that was handed over is here."""

    connections: int


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    """One client connection. `kind` is watch, exec, ... for a long stream, "" for others; `age` is of what it does."""

    client: str
    listener: str
    pool: str
    backend: str  # "" while it waits for a request
    source: str  # where the backend sees it come from
    kind: str
    age: float  # seconds
    moved: int  # bytes, both ways


@dataclass(frozen=True, slots=True)
class Found:
    """How many connections match, and the first of them."""

    count: int
    rows: tuple[ConnectionRow, ...]


@dataclass(slots=True)
class BackendStats:
    """Counters of one backend in one worker; all but `active`, `long_streams` and `idle` only grow."""

    active: int = 0
    total: int = 0
    failed: int = 0
    long_streams: int = 0
    idle: int = 0
    bytes_in: int = 0  # from the client to the backend
    bytes_out: int = 0
    retries: dict[str, int] = field(default_factory=dict)  # by reason; `dial`: it went on to another backend
    reused: int = 0  # requests that found a kept-alive connection
    dials: dict[tuple[str, int], int] = field(default_factory=dict)  # result (DIALS) and bucket -> count
    dial_seconds: dict[str, float] = field(default_factory=dict)  # by result
    heads: dict[int, int] = field(default_factory=dict)  # from a request to the response's head, bucket -> count
    head_seconds: float = 0.0
    responses: dict[int, int] = field(default_factory=dict)  # status // 100 -> count
    # HAProxy's two letters -> connections and requests that ended otherwise than well while this backend had them
    ends: dict[str, int] = field(default_factory=dict)

    def retry(self, reason: str) -> None:
        """A request is sent again (stale, closed, refused), or a dial goes on to another backend (dial)."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def dialled(self, result: str, seconds: float) -> None:
        """A dial has come to its end, not well: those that did are counted by Peer."""
        key = result, bisect_left(BOUNDS, seconds)
        self.dials[key] = self.dials.get(key, 0) + 1
        self.dial_seconds[result] = self.dial_seconds.get(result, 0.0) + seconds

    def end(self, code: str) -> None:
        """A connection or request has ended otherwise than well."""
        self.ends[code] = self.ends.get(code, 0) + 1


@dataclass(slots=True)
class ListenerStats:
    """Counters of one listener in one worker; all but `active` only grow."""

    accepted: int = 0
    active: int = 0
    refused: int = 0  # above max_connections
    requests: int = 0
    watches_resumed: int = 0  # that went on at another backend
    watches_not_resumed: int = 0  # that lost their backend and were ended, because no other went on
    watches_ended: int = 0  # cleanly, to leave a backend that was not ready
    relists_avoided: int = 0  # watches where the client would have had to list again
    watches_rebalanced: int = 0  # resumed elsewhere for evenness
    bytes_in: int = 0  # from clients
    bytes_out: int = 0
    responses: dict[int, int] = field(default_factory=dict)  # status // 100 -> count, own answers included
    terminations: dict[str, int] = field(default_factory=dict)  # HAProxy's two letters -> count


@dataclass(slots=True)
class StreamStats:
    """Long streams of one kind at one backend."""

    count: int = 0
    ages: list[int] = field(default_factory=lambda: [0] * (len(AGES) + 1))  # by AGES
    oldest: float = 0.0  # seconds

    @classmethod
    def of(cls, began: Sequence[float], now: float) -> StreamStats:
        """Of some that began then, the oldest first."""
        older = [bisect_right(began, now - bound) for bound in AGES]
        ages = [more - less for more, less in zip((len(began), *older), (*older, 0), strict=True)]
        return cls(len(began), ages, max(now - began[0], 0.0))

    def add(self, other: StreamStats) -> None:
        self.count += other.count
        self.ages = [mine + theirs for mine, theirs in zip(self.ages, other.ages, strict=True)]
        self.oldest = max(self.oldest, other.oldest)


@dataclass(slots=True)
class Stats:
    """A worker's counters: `listeners` as in the config, `pools[name]` as the pool's backends."""

    listeners: list[ListenerStats]
    pools: dict[str, list[BackendStats]]
    accept_paused: int = 0  # times accept stopped for want of file descriptors
    internal_errors: int = 0
    log_dropped: int = 0  # access-log lines lost because the pipe was full
    no_backend: dict[str, int] = field(default_factory=dict)  # pool -> picks that found nobody
    # pool -> for each backend its long streams by kind; up to a few seconds old
    streams: dict[str, list[dict[str, StreamStats]]] = field(default_factory=dict)
    leases: LeaseReport = field(default_factory=LeaseReport)
    generation: int = 0  # of the configuration whose shape this has


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message that is larger than a packet: the counters of a thousand busy backends are."""

    data: bytes
    last: bool


ToWorker = Configure | Reconfigure | SetHealth | SetFailOpen | GetStats | Drain | HandOver | TakeOver | Find
ToControl = Ready | BackendFailed | Stats | TakenOver | Found | Part


def encode(message: ToWorker | ToControl) -> bytes:
    """The packet for a message. Raises ValueError above MAX_MESSAGE."""
    data = pickle.dumps(message, protocol=5)
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a {type(message).__name__} of {len(data)} bytes is larger than the control channel's limit")
    return data


def encode_in_parts(message: ToControl) -> list[bytes]:
    """The packets for a message of any size. No other message in parts may come between them."""
    data = pickle.dumps(message, protocol=5)
    if len(data) <= MAX_MESSAGE:
        return [data]
    starts = range(0, len(data), PART)
    return [encode(Part(data[start : start + PART], start + PART >= len(data))) for start in starts]


class Inbox:
    """Puts together what came in parts."""

    def __init__(self) -> None:
        self._data = bytearray()

    def take(self, packet: bytes) -> ToWorker | ToControl | None:
        """The message that a packet makes complete; None if it does not."""
        message = decode(packet)
        if not isinstance(message, Part):
            return message
        self._data += message.data
        if not message.last:
            return None
        data, self._data = bytes(self._data), bytearray()
        return decode(data)


def decode(data: bytes) -> ToWorker | ToControl:
    """The message in a packet that `encode` made."""
    message: ToWorker | ToControl = pickle.loads(data)
    return message

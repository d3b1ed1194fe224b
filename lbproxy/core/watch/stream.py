"""A watch's response body, cut into whole events, and what was seen of it."""

from __future__ import annotations

from lbproxy.core.watch.progress import Phase, Progress

MAX_EVENT = 4 * 1024 * 1024
"""Bytes. etcd takes 1.5 MiB by default, and JSON is larger than what is stored; a stream with more is not held."""

MIN_AGE = 1.0
"""Seconds. client-go lists again after a watch that was shorter and brought nothing ("very short watch")."""
QUIET = 5.0
"""Seconds without a byte after which what exists has most likely been sent, where no mark says so."""


MAX_UNREAD = 2048
"""Bytes of a last event that is kept to be read when it is needed, instead of being read at once."""

_KEPT_BACK = (Phase.REFUSED, Phase.FOREIGN)
_SETTLED = (Phase.LOST, *_KEPT_BACK)  # what comes does not matter any more


class WatchStream(Progress):
    """One watch, from the client's point of view: through however many backends it comes.

    `feed` takes a body's bytes as they come (chunked framing removed) and gives back the whole events among them,
    as they were. What is held back is the beginning of an event, at most `MAX_EVENT` bytes; `resume` drops it.

    A version is needed only when a backend dies. So an event that comes alone, as most do, is looked at just long
    enough to see that it is one (`take`), and is kept; the next one replaces it.
    """

    __slots__ = ("_held", "_searched", "_unread", "_unread_end", "_unread_pos")

    def __init__(self, phase: Phase, version: bytes | None) -> None:
        super().__init__(phase, version)
        self._held = bytearray()
        self._searched = 0  # bytes of _held in which no event's end is
        self._unread = b""  # what holds the last event, in _unread_pos to _unread_end, if that was not read
        self._unread_pos = self._unread_end = 0

    def feed(self, data: bytes) -> bytes:
        """The events that are whole with `data`; `data` itself if it is nothing else."""
        if not self._held:
            end = len(data)
            if self.take(data, 0, end):
                return data
            whole = self.scan(data, 0, end)
            return data if whole == end else data[:whole]
        if self.refused:
            return b""
        held = self._held
        held += data
        whole = self._scan(held, 0, len(held))
        whole = self._forwardable(0, whole, len(held))
        if whole == len(held):
            return self.release()
        ready = bytes(held[:whole])
        del held[:whole]
        return ready

    def take(self, data: bytes, pos: int, end: int) -> bool:
        """Whether data[pos:end] is one event in order, and is remembered as such; False leaves it to `scan`."""
        if not self.is_event(data, pos, end):
            return False
        if len(data) > MAX_UNREAD:
            self.scan(data, pos, end)
        else:
            self.events += 1
            self._unread, self._unread_pos, self._unread_end = data, pos, end
        return True

    def is_event(self, data: bytes, pos: int, end: int) -> bool:
        """Whether data[pos:end] is one event in order; a quick look, that may say no where `scan` finds one."""
        return False

    def skip(self, events: int) -> None:
        """Note that `events` have passed, with another one behind them."""
        self.events += events

    def scan(self, data: bytes, pos: int, end: int) -> int:
        """As `feed` for data[pos:end] while nothing is held, but gives the offset behind the last whole event.

        What lies between it and `end` is held. A lost stream has no events: all of it is to be passed on.
        """
        if self._unread:
            self._read()
        if self._phase in _SETTLED:
            return end if self._phase is Phase.LOST else pos
        self._searched = 0
        whole = self._forwardable(pos, self._scan(data, pos, end), end)
        if whole != end:
            self._held += data[whole:end]
        return whole

    @property
    def resume_from(self) -> bytes | None:
        """The version from which another backend can go on; None while, or since, there is none that is safe."""
        if self._unread:
            self._read()
        return self._version

    @property
    def phase(self) -> Phase:
        """Where the stream is."""
        if self._unread:
            self._read()
        return self._phase

    @property
    def lost(self) -> bool:
        """Whether events cannot be told apart (any more): all is passed on as it comes."""
        return self.phase is Phase.LOST

    @property
    def refused(self) -> bool:
        """Whether the last backend that was to go on did not: ask another one, or else forward what `give_in` gives."""
        return self._phase in _KEPT_BACK

    @property
    def at_boundary(self) -> bool:
        """Whether the client has whole events and nothing else."""
        return self.refused or not (self._held or self.lost)

    @property
    def held(self) -> int:
        """Bytes held back."""
        return len(self._held)

    def can_end(self, age: float, quiet: float) -> bool:
        """Whether the response may be ended here as the server would, so that the client just watches again.

        `age`: seconds since the response began; `quiet`: seconds since its last byte.
        """
        if not self.at_boundary or (age < MIN_AGE and not self.events):
            return False
        if self.phase is Phase.UNORDERED:
            return quiet >= QUIET
        return self.phase is not Phase.MARKED

    def resume(self) -> None:
        """Another backend goes on from `resume_from`: the event that the last one did not finish is dropped."""
        if self.resume_from is None:
            raise ValueError("there is no version to resume from")
        self.release()
        self._phase = Phase.RESUMED

    def give_in(self) -> bytes:
        """No backend goes on with a refused stream: what the client is to get before its response ends.

        That is the last backend's ERROR event, or nothing if what it sent was no event.
        """
        if self._phase is Phase.REFUSED:
            self.events += 1
            refusal = self.release()
        else:
            self.release()
            refusal = b""
        self._phase, self._version = Phase.ENDING, None
        return refusal

    def release(self) -> bytes:
        """Give up what is held: the bytes of an event that is not whole."""
        released = bytes(self._held)
        self._held.clear()
        self._searched = 0
        return released

    def _read(self) -> None:
        data, self._unread = self._unread, b""
        self.events -= 1  # it is counted again
        self._scan(data, self._unread_pos, self._unread_end)

    def _forwardable(self, pos: int, whole: int, end: int) -> int:
        """What of the whole events up to `whole` may leave, and of the rest."""
        if end - whole > MAX_EVENT:
            self.lose()
        if self._phase in _KEPT_BACK:
            return pos
        return end if self._phase is Phase.LOST else whole

    def _scan(self, data: bytes | bytearray, pos: int, end: int) -> int:
        """Note the whole events in data[pos:end]; the offset behind the last one."""
        raise NotImplementedError

"""How far a watch has come: from which version it can be asked for again without missing or doubling an event.

A resourceVersion is the revision of the whole store (etcd counts writes, whatever they write to), and
`resourceVersion=N` asks for what was written after N. So a stream's last version is the one to go on from, if
everything up to it has been sent. That is so once events come in the order in which they were written, but a watch
may begin with something else:

- with `resourceVersion=N`, N not 0, there is nothing else: events come in order from the first on (`ORDERED`), and
  before the first one N is the version.
- without a version, or with 0, the server first sends what exists, as made-up ADDED events (`UNORDERED`). They come
  by name or in no order at all, each with the version at which its object was last written. Neither the last nor the
  highest version among them says how many are still to come: whoever resumes at the highest misses those that were
  to follow with a lower one. That the part is over shows only when something else comes: MODIFIED and DELETED are
  never made up, and bookmarks are not sent before. From that event on order holds. An ADDED alone proves nothing.
- with `sendInitialEvents=true` and bookmarks, what exists ends with a BOOKMARK that is annotated to say so
  (`MARKED`). Real events may come before it, but the client waits for the mark, and a watch that is resumed without
  sendInitialEvents never sends one. So nothing before it can be resumed.
- an ERROR (410 Expired above all) is the last that a server sends. It goes to the client, who then lists again; the
  watch is not resumed (`ENDING`).
- what cannot be read as events is passed on as it comes, and never resumed (`LOST`).

After a resumption the first event decides (`RESUMED`). If it is an ERROR, another backend may still know better: an
apiserver that has restarted lately says 410 of every version from before, one that has not remembers it. So that
ERROR is held back (`REFUSED`) until another backend has been found, or none is left to ask. What cannot be read is
not for the client of a response that was read well so far (`FOREIGN`).

The server does not send again what it was told to start after, so nothing is filtered after a resumption: an event
dropped by mistake is a gap that no client would ever notice. A backend whose cache lags does no harm either: it sends
the events after N when it gets them.
"""

from __future__ import annotations

from enum import Enum

INITIAL_END = "k8s.io/initial-events-end"  # "true" as annotation of the BOOKMARK behind what existed (KEP-3157)


class Phase(Enum):
    """Where a stream is. It has a version to go on from in ORDERED and in the three that follow a resumption."""

    UNORDERED = "unordered"
    MARKED = "marked"
    ORDERED = "ordered"
    RESUMED = "resumed"
    REFUSED = "refused"
    FOREIGN = "foreign"
    ENDING = "ending"
    LOST = "lost"


class Progress:
    """What a stream's events have shown so far. `events` counts the whole ones, bookmarks and errors too."""

    __slots__ = ("_latest", "_phase", "_version", "events")

    def __init__(self, phase: Phase, version: bytes | None) -> None:
        self._phase = phase
        self.events = 0
        self._version = version  # from which the stream can be resumed
        self._latest = version or b""

    def saw(self, kind: bytes, version: bytes | None, *, marked: bool = False) -> None:
        """Another whole event: its type, its version if that could be read, whether it is the initial part's end."""
        phase = self._phase
        if kind == b"ERROR" and phase is Phase.RESUMED:
            self._phase = phase = Phase.REFUSED
        if phase is Phase.REFUSED:
            return
        self.events += 1
        if kind == b"ERROR":
            self._phase, self._version = Phase.ENDING, None
            return
        if phase is Phase.MARKED and not marked:
            return
        if phase is Phase.UNORDERED and kind == b"ADDED":
            return
        if phase is not Phase.ENDING:
            self._phase = Phase.ORDERED
            self.advance(version)

    def advance(self, version: bytes | None) -> None:
        """An event in order. Apiservers before 1.10 sent DELETED with an old version: what was known is kept."""
        if version is None:
            # The next event that can be read makes up for it, since it comes later.
            self._version = None
            return
        latest = self._latest
        if len(version) > len(latest) or (len(version) == len(latest) and version > latest):
            self._latest = version
        self._version = self._latest

    def lose(self) -> None:
        """What came is no event."""
        if self._phase is Phase.RESUMED:
            self._phase = Phase.FOREIGN
        else:
            self._phase, self._version = Phase.LOST, None

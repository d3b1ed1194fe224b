"""Watches: one log, many readers, every event encoded once.

Watchers that see the same bytes (same resource, selector, representation and framing) form a `Group`. A write appends
its line to each group concerned and wakes the hub; the hub then sends what has gathered, as one chunk, to each member.
Under load that batches by itself, like the real server, which flushes when its queue is empty: an HTTP chunk is not
an event, and clients must not take it for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import trio

from lbproxy.demo.connection import Connection
from lbproxy.demo.query import Selector
from lbproxy.demo.resources import BY_ID, Resource, table
from lbproxy.demo.store import Event, EventType, Json, Store, Stored, encode

MAX_PENDING = 16 * 1024 * 1024
"""Bytes a watcher may lag behind before it is cut off, as the watch cache does with a full channel."""


class End(Enum):
    """How a watch ends. Clients react differently to each; only CLEAN is silent for all of them."""

    CLEAN = "clean"
    FIN = "fin"
    RST = "rst"
    MID_FIN = "mid-fin"
    """Half an event, then FIN."""
    MID_RST = "mid-rst"


@dataclass(frozen=True, slots=True)
class View:
    """Everything that decides which bytes a watcher sees."""

    resource: str
    selector: Selector
    table: bool
    framed: bool
    """Chunked; else plain lines up to the close (HTTP/1.0)."""

    def line(self, event: Event) -> bytes | None:
        """The event as this view sees it; an object that enters or leaves the selection was ADDED or DELETED."""
        kind = self._kind(event)
        if kind is None:
            return None
        rendering = (kind, self.table)
        line = event.renderings.get(rendering)
        if line is None:
            line = event.renderings[rendering] = self.render(kind, event.stored)
        return line

    def render(self, kind: EventType, stored: Stored) -> bytes:
        body = stored.encoded
        if self.table:
            body = encode(table(BY_ID[self.resource], stored.revision, [stored.body]))
        return b'{"type":"%s","object":%s}\n' % (kind.value.encode(), body)

    def _kind(self, event: Event) -> EventType | None:
        now = self.selector.matches(event.key, event.stored.body)
        if event.type is not EventType.MODIFIED or event.previous is None:
            return event.type if now else None
        before = self.selector.matches(event.key, event.previous.body)
        if now:
            return EventType.MODIFIED if before else EventType.ADDED
        return EventType.DELETED if before else None

    def frame(self, lines: Iterable[bytes]) -> bytes:
        data = b"".join(lines)
        return b"%x\r\n%s\r\n" % (len(data), data) if self.framed and data else data


def bookmark(resource: Resource, revision: int, *, initial_end: bool = False, as_table: bool = False) -> bytes:
    metadata: Json = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    body: Json = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    if as_table:
        body = table(resource, revision, [body])
    return encode({"type": "BOOKMARK", "object": body}) + b"\n"


@dataclass(eq=False, slots=True)
class Watcher:
    connection: Connection
    view: View
    bookmarks: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """What the watch's task waits in; cancelled to end the watch."""
    end: End | None = None

    def stop(self, end: End) -> None:
        self.end = end
        self.scope.cancel()


@dataclass(eq=False, slots=True)
class Group:
    view: View
    lines: list[bytes] = field(default_factory=list)
    members: set[Watcher] = field(default_factory=set)


class WatchHub:
    """All watches of one server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._groups: dict[str, dict[View, Group]] = {}
        self._dirty: set[Group] = set()
        self._wake = trio.Event()
        self._unsubscribe: Callable[[], None] = store.subscribe(self._on_event)

    def close(self) -> None:
        self._unsubscribe()

    def watchers(self) -> list[Watcher]:
        groups = [group for views in self._groups.values() for group in views.values()]
        return [watcher for group in groups for watcher in group.members]

    def join(self, watcher: Watcher) -> None:
        """Send `watcher` every event from now on: its past must have been fed in the same breath."""
        views = self._groups.setdefault(watcher.view.resource, {})
        group = views.setdefault(watcher.view, Group(watcher.view))
        self._flush(group)
        group.members.add(watcher)

    def leave(self, watcher: Watcher) -> None:
        views = self._groups[watcher.view.resource]
        group = views[watcher.view]
        self._flush(group)
        group.members.discard(watcher)
        if not group.members:
            del views[watcher.view]

    def _on_event(self, event: Event) -> None:
        for group in self._groups.get(event.resource, {}).values():
            line = group.view.line(event)
            if line is not None:
                group.lines.append(line)
                self._dirty.add(group)
        if self._dirty:
            self._wake.set()

    async def run(self) -> None:
        """Send what has gathered, whenever something has."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                for group in tuple(self._dirty):
                    self._flush(group)
                    for watcher in group.members:
                        if watcher.connection.pending:
                            _mind(watcher, nursery)

    def _flush(self, group: Group) -> None:
        self._dirty.discard(group)
        if not group.lines:
            return
        data = group.view.frame(group.lines)
        group.lines.clear()
        for watcher in group.members:
            watcher.connection.feed(data)

    async def send_bookmarks(self, interval: float) -> None:
        """A BOOKMARK to every watch that asked for them, each `interval` seconds; the real one does so each minute."""
        while True:
            await trio.sleep(interval)
            for watcher in self.watchers():
                if watcher.bookmarks:
                    self.bookmark(watcher)

    def bookmark(self, watcher: Watcher) -> None:
        view = watcher.view
        self._flush(self._groups[view.resource][view])
        line = bookmark(BY_ID[view.resource], self._store.revision, as_table=view.table)
        watcher.connection.feed(view.frame([line]))


def _mind(watcher: Watcher, nursery: trio.Nursery) -> None:
    if len(watcher.connection.pending) > MAX_PENDING:
        watcher.stop(End.FIN)
    elif not watcher.connection.flushing:
        nursery.start_soon(watcher.connection.flush)

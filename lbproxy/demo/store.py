"""The demo's etcd: objects, one revision counter for all of them, and the log of what changed.

Kubernetes promises its clients one thing about a watch: "events after revision N" has no gap and no repeat, on
whichever apiserver they ask. That holds because all apiservers read one log. So the log is the heart of this module:
every write appends exactly one `Event` with the next revision, and lists, watches and replicas are views of it.

Everything here is synchronous: a write, the event it makes and the call of every subscriber happen in one breath.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

Json = dict[str, Any]
Key = tuple[str, str]  # (namespace, name); the namespace is "" for what is not namespaced

HISTORY_EVENTS = 20_000
"""How many events are kept for watches that start in the past; etcd is compacted every 5 minutes instead."""


class EventType(Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Verb(Enum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Refused(Enum):
    """Why a write changed nothing."""

    EXISTS = "AlreadyExists"
    MISSING = "NotFound"
    CONFLICT = "Conflict"


class WriteRefusedError(Exception):
    def __init__(self, why: Refused) -> None:
        super().__init__(why.value)
        self.why = why


class ExpiredError(Exception):
    """The revision asked for is older than the history; the API calls it 410 Gone, reason Expired."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {revision} ({oldest})")


def encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Stored:
    """One object as of one revision. `body` is never changed after this was made; `encoded` is computed once."""

    revision: int
    body: Json

    @cached_property
    def encoded(self) -> bytes:
        return encode(self.body)


@dataclass(frozen=True, slots=True)
class Write:
    verb: Verb
    resource: str
    key: Key
    body: Json | None = None
    expected_revision: int | None = None
    """The optimistic lock: refuse unless the object is still at this revision."""
    expected_uid: str | None = None


@dataclass(frozen=True)
class Event:
    """One entry of the log."""

    revision: int
    type: EventType
    resource: str
    key: Key
    stored: Stored
    """The object after the change; for DELETED its last state, with the revision of the deletion."""
    previous: Stored | None
    renderings: dict[object, bytes] = field(default_factory=dict, compare=False, repr=False)
    """The event as bytes, per representation: a thousand watchers of one resource share one encoding."""


Subscriber = Callable[[Event], None]


class Store:
    def __init__(self, *, history: int = HISTORY_EVENTS, revision: int = 1) -> None:
        self.revision = revision
        self.compacted = revision
        """Watches may start at this revision or later."""
        self._history = history
        self._objects: dict[str, dict[Key, Stored]] = {}
        self._log: deque[Event] = deque()
        self._log_of: dict[str, list[Event]] = {}
        self._subscribers: list[Subscriber] = []

    # Reading

    def get(self, resource: str, key: Key) -> Stored | None:
        return self._objects.get(resource, {}).get(key)

    def snapshot(self, resource: str, at: int | None = None) -> dict[Key, Stored]:
        """All objects of a resource in key order, now or at an earlier revision.

        Raises `ExpiredError` when the history does not reach back to `at`.
        """
        objects = dict(self._objects.get(resource, {}))
        if at is not None and at < self.revision:
            for event in reversed(self.since(resource, at)):
                _restore(objects, event.key, event.previous)
        return dict(sorted(objects.items()))

    def since(self, resource: str, revision: int) -> list[Event]:
        """The events of a resource after `revision`, in order. Raises `ExpiredError` where some are forgotten."""
        if revision < self.compacted:
            raise ExpiredError(revision, self.compacted)
        events = self._log_of.get(resource, [])
        return events[bisect_right(events, revision, key=lambda event: event.revision) :]

    def resources(self) -> list[str]:
        return sorted(self._objects)

    def log(self) -> Iterator[Event]:
        return iter(self._log)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every event from now on, in order. Returns what ends the subscription."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    # Writing

    def write(self, write: Write) -> Event:
        """Do one write or raise `WriteRefusedError`."""
        current = self.get(write.resource, write.key)
        _check(write, current)
        revision = self.revision + 1
        if write.verb is Verb.DELETE:
            assert current is not None
            return self._append(revision, EventType.DELETED, write, current.body, current)
        assert write.body is not None
        kind = EventType.ADDED if write.verb is Verb.CREATE else EventType.MODIFIED
        return self._append(revision, kind, write, write.body, current)

    def compact(self, revision: int) -> None:
        """Forget the history up to and including `revision`."""
        while self._log and self._log[0].revision <= revision:
            self._forget_oldest()
        self.compacted = max(self.compacted, min(revision, self.revision))

    def _append(self, revision: int, kind: EventType, write: Write, body: Json, previous: Stored | None) -> Event:
        metadata = {**body["metadata"], "resourceVersion": str(revision)}
        event = Event(
            revision=revision,
            type=kind,
            resource=write.resource,
            key=write.key,
            stored=Stored(revision, {**body, "metadata": metadata}),
            previous=previous,
        )
        self.apply(event)
        return event

    def apply(self, event: Event) -> None:
        """Append an event that has its revision already; how a replica follows its leader."""
        if event.revision <= self.revision:
            raise ValueError(f"revision {event.revision} after {self.revision}")
        self.revision = event.revision
        objects = self._objects.setdefault(event.resource, {})
        _restore(objects, event.key, None if event.type is EventType.DELETED else event.stored)
        self._log.append(event)
        self._log_of.setdefault(event.resource, []).append(event)
        if len(self._log) > self._history:
            self._forget_oldest()
        for subscriber in tuple(self._subscribers):
            subscriber(event)

    def load(self, resource: str, key: Key, stored: Stored) -> None:
        """Put an object in place without an event: the base state of a replica."""
        self._objects.setdefault(resource, {})[key] = stored

    def _forget_oldest(self) -> None:
        event = self._log.popleft()
        del self._log_of[event.resource][0]
        self.compacted = event.revision


def _check(write: Write, current: Stored | None) -> None:
    if write.verb is Verb.CREATE:
        if current is not None:
            raise WriteRefusedError(Refused.EXISTS)
        return
    if current is None:
        raise WriteRefusedError(Refused.MISSING)
    if write.expected_revision not in (None, current.revision):
        raise WriteRefusedError(Refused.CONFLICT)
    if write.expected_uid not in (None, current.body["metadata"].get("uid")):
        raise WriteRefusedError(Refused.CONFLICT)


def _restore(objects: dict[Key, Stored], key: Key, stored: Stored | None) -> None:
    if stored is None:
        objects.pop(key, None)
    else:
        objects[key] = stored

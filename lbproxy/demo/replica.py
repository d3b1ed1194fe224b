"""Three apiservers, one etcd: the store in one process, replicas of it in others, a line protocol between them.

Each real apiserver keeps a watch cache that follows etcd, reads from it, and sends writes to etcd. The same here, over
a unix socket, one JSON document per line:

    server: {"base": …, "revision": R, "objects": [...]}     what the replica starts from; the log leads on to R
    server: {"event": {...}}                  every event of the log, the kept history first
    client: {"id": N, "write": {...}}
    server: {"id": N, "revision": R} or {"id": N, "refused": "Conflict"}

An answer follows its event on the same stream, so whoever is told "revision R" has R already: no read-your-write gap.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from lbproxy.demo.store import (
    Event,
    EventType,
    Json,
    Refused,
    Store,
    Stored,
    Verb,
    Write,
    WriteRefusedError,
    encode,
)


async def serve_store(
    store: Store, path: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Let replicas follow `store` on a unix socket at `path`, until cancelled."""
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(path)
    sock.listen(64)

    async def handle(stream: trio.SocketStream) -> None:
        await _serve_replica(store, stream)

    await trio.serve_listeners(handle, [trio.SocketListener(sock)], task_status=task_status)  # type: ignore[arg-type]


async def _serve_replica(store: Store, stream: trio.SocketStream) -> None:
    sender, outgoing = trio.open_memory_channel[bytes](math.inf)
    sender.send_nowait(_base(store))
    for event in store.log():
        sender.send_nowait(_event_line(event))
    unsubscribe = store.subscribe(lambda event: sender.send_nowait(_event_line(event)))
    try:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send_lines, stream, outgoing)
            lines = _LineReader(stream)
            while (line := await lines.next()) is not None:
                sender.send_nowait(encode(_do(store, json.loads(line))) + b"\n")
            nursery.cancel_scope.cancel()
    finally:
        unsubscribe()


async def _send_lines(stream: trio.SocketStream, outgoing: trio.MemoryReceiveChannel[bytes]) -> None:
    with suppress(trio.BrokenResourceError):  # the replica is gone; its reading end says so too
        async for line in outgoing:
            await stream.send_all(line)


class _LineReader:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._lines: deque[bytes] = deque()

    async def next(self) -> bytes | None:
        """The next line, None when the other end has hung up."""
        while not self._lines:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            *lines, rest = (self._buffer + data).split(b"\n")
            self._buffer = rest
            self._lines.extend(bytes(line) for line in lines)
        return self._lines.popleft()


def _do(store: Store, message: Json) -> Json:
    fields = message["write"]
    write = Write(**{**fields, "verb": Verb(fields["verb"]), "key": tuple(fields["key"])})
    try:
        event = store.write(write)
    except WriteRefusedError as error:
        return {"id": message["id"], "refused": error.why.value}
    return {"id": message["id"], "revision": event.revision}


def _base(store: Store) -> bytes:
    objects = [
        [resource, *key, stored.revision, stored.body]
        for resource in store.resources()
        for key, stored in store.snapshot(resource, store.compacted).items()
    ]
    return encode({"base": store.compacted, "revision": store.revision, "objects": objects}) + b"\n"


def _event_line(event: Event) -> bytes:
    line = event.renderings.get("replica")
    if line is None:
        head = {"revision": event.revision, "type": event.type.value, "resource": event.resource, "key": event.key}
        line = b'{"event":%s,"object":%s}\n' % (encode(head), event.stored.encoded)
        event.renderings["replica"] = line
    return line


class Replica:
    """A store that follows another one. Give a server `replica.store` to read and `replica.commit` to write."""

    def __init__(self, stream: trio.SocketStream, base: Json) -> None:
        self.store = Store(revision=base["base"])
        for resource, namespace, name, revision, body in base["objects"]:
            self.store.load(resource, (namespace, name), Stored(revision, body))
        self._stream = stream
        self._sending = trio.Lock()
        self._answers: dict[int, trio.MemorySendChannel[Json]] = {}
        self._next_id = 0

    async def follow(self, lines: _LineReader) -> None:
        """Apply the leader's events until the connection ends."""
        while (line := await lines.next()) is not None:
            self.take(line)
        for waiting in self._answers.values():
            waiting.close()
        self._answers.clear()

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        if "event" in message:
            self._apply(message["event"], message["object"])
        else:
            self._answers.pop(message["id"]).send_nowait(message)

    def _apply(self, head: Json, body: Json) -> None:
        key = (head["key"][0], head["key"][1])
        self.store.apply(
            Event(
                revision=head["revision"],
                type=EventType(head["type"]),
                resource=head["resource"],
                key=key,
                stored=Stored(head["revision"], body),
                previous=self.store.get(head["resource"], key),
            )
        )

    async def commit(self, write: Write) -> Event:
        """Do a write at the leader. Raises `WriteRefusedError`, or `ConnectionError` when the leader is gone."""
        self._next_id += 1
        number = self._next_id
        sender, receiver = trio.open_memory_channel[Json](1)
        self._answers[number] = sender
        fields: dict[str, Any] = {name: getattr(write, name) for name in Write.__slots__}
        line = encode({"id": number, "write": {**fields, "verb": write.verb.value}}) + b"\n"
        try:
            async with self._sending:
                await self._stream.send_all(line)
            answer = await receiver.receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            raise ConnectionError("the store is gone") from None
        if "refused" in answer:
            raise WriteRefusedError(Refused(answer["refused"]))
        return next(iter(self.store.since(write.resource, answer["revision"] - 1)))


async def _expect(lines: _LineReader) -> bytes:
    line = await lines.next()
    if line is None:
        raise ConnectionError("the store hung up")
    return line


@asynccontextmanager
async def replica(path: str, gone: Callable[[], None]) -> AsyncIterator[Replica]:
    """Follow the store at `path`, from its present on; `gone` is called when it hangs up. Raises `OSError`."""
    stream = await trio.open_unix_socket(path)
    async with stream, trio.open_nursery() as nursery:
        lines = _LineReader(stream)
        base = json.loads(await _expect(lines))
        made = Replica(stream, base)
        while made.store.revision < base["revision"]:  # else its first lists would show the past
            made.take(await _expect(lines))

        async def follow() -> None:
            await made.follow(lines)
            gone()

        nursery.start_soon(follow)
        yield made
        nursery.cancel_scope.cancel()


class LaggingStore:
    """An in-process replica that a test holds back: `store` stays where it is until `release`."""

    def __init__(self, leader: Store) -> None:
        self.store = Store(revision=leader.compacted)
        for resource in leader.resources():
            for key, stored in leader.snapshot(resource, leader.compacted).items():
                self.store.load(resource, key, stored)
        self._held: deque[Event] = deque(leader.log())
        self._holding = False
        self.release()
        leader.subscribe(self._on_event)

    def hold(self) -> None:
        self._holding = True

    def release(self, events: int | None = None) -> None:
        """Apply `events` of the events held back; None applies all and stops holding."""
        self._holding = events is not None
        count = len(self._held) if events is None else min(events, len(self._held))
        for _ in range(count):
            self.store.apply(self._held.popleft())

    def _on_event(self, event: Event) -> None:
        self._held.append(event)
        if not self._holding:
            self.store.apply(self._held.popleft())

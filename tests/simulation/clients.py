"""Simulated clients: reflectors as client-go has them, pollers that list, and writers that create."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.apiserver import Store
from tests.simulation.messages import Head, Part, Reader
from tests.simulation.network import SimSocket, Violation, World

Connect = Callable[["Client"], SimSocket]
HOST = b" HTTP/1.1\r\nHost: api\r\nAccept: application/json\r\n"
TARGET = b"/api/v1/namespaces/default/configmaps"
SHORT = 1.0  # seconds: client-go lists again after a watch that brought nothing in less


@dataclass
class Record:
    """What the clients together have seen."""

    acknowledged: set[str] = field(default_factory=set)
    not_sent: set[str] = field(default_factory=set)  # answered with Retry-After: leave to send it again
    failed_reads: list[str] = field(default_factory=list)  # GETs that were answered 5xx
    relists: list[str] = field(default_factory=list)
    broken_watches: list[str] = field(default_factory=list)
    let_in: list[float] = field(default_factory=list)  # when a watch or a list was asked for that was not turned away
    turned_away: int = 0
    events: int = 0
    requests: int = 0


def is_held_off(head: Head) -> bool:
    """Whether the balancer asks to come again later."""
    return head.status == 429 and "retry-after" in head.fields


class Client:
    """One connection at a time, one request at a time."""

    kind = "client"

    def __init__(self, world: World, store: Store, record: Record, connect: Connect) -> None:
        self.world = world
        self.store = store
        self.record = record
        self.name = f"{self.kind}{world.number()}"
        self.stopped = False
        self.progress = world.now  # when something last went well
        self._connect = connect
        self._sock: SimSocket | None = None
        self._reader = Reader()
        self._head: Head | None = None
        self._waiting = False
        self._asked = 0.0

    @property
    def waiting(self) -> float:
        """Seconds since it asked for something that it has not got."""
        return self.world.now - self._asked if self._waiting else 0.0

    def begin(self) -> None:
        """Do what it is there for, once."""
        raise NotImplementedError

    def on_answer(self, head: Head, body: bytes) -> None:
        """The whole answer to a request."""
        raise NotImplementedError

    def on_broken(self, head: Head | None) -> None:
        """The connection ended before the answer did."""
        raise NotImplementedError

    def on_head(self, head: Head) -> None:
        """The answer begins."""

    def on_piece(self, data: bytes) -> None:
        """A piece of the body."""
        self._body += data

    def stop(self) -> None:
        self.stopped = True
        self.drop(self.world.chance(0.3))

    def drop(self, reset: bool) -> None:
        """Leave, whatever is under way."""
        if self._sock is not None:
            self._sock.hang_up(reset=reset)
            self._sock = None
        self._waiting = False

    def again(self, least: float, most: float) -> None:
        self.world.after(self.world.random.uniform(least, most), self._begin)

    def request(self, method: bytes, target: bytes, body: bytes = b"") -> None:
        if self._sock is None:
            self._reader = Reader()
            self._sock = self._connect(self)
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        self._head, self._body, self._waiting = None, b"", True
        self._asked = self.world.now
        self.record.requests += 1
        self._sock.transmit(method + b" " + target + HOST + length + b"\r\n" + body)

    def on_data(self, data: bytes) -> None:
        if not self._waiting:
            raise Violation(f"{self.name} is told what it has not asked for: {data[:100]!r}")
        for part, content in self._reader.feed(data):
            if isinstance(content, Head):
                self._head = content
                self.on_head(content)
            elif part is Part.DATA:
                self.on_piece(content)
            elif self._head is not None:
                self._waiting = False
                if self._head.closes:
                    self.drop(reset=False)
                self.on_answer(self._head, self._body)

    def on_end(self, reset: bool) -> None:
        waiting = self._waiting
        self.drop(reset=False)
        if waiting:
            self.world.tell(f"{self.name} is cut off ({'RST' if reset else 'FIN'})")
            self.on_broken(self._head)

    def _begin(self) -> None:
        if not self.stopped and not self._waiting:
            self.begin()


class Poller(Client):
    """Lists every now and then."""

    kind = "poller"

    def begin(self) -> None:
        self.request(b"GET", TARGET + b"?limit=500")

    def on_answer(self, head: Head, body: bytes) -> None:
        self.take_list(head, body)
        self.again(0.1, 4.0)

    def on_head(self, head: Head) -> None:
        if is_held_off(head):
            self.record.turned_away += 1
        else:
            self.record.let_in.append(self._asked)

    def on_broken(self, head: Head | None) -> None:
        if head is None:
            self.note_failure("no answer")
        self.again(0.1, 1.0)

    def take_list(self, head: Head, body: bytes) -> bool:
        if is_held_off(head):
            return False
        if head.status == 200:
            if body not in self.store.lists:
                raise Violation(f"{self.name} got a list that nobody sent: {body[:200]!r}")
            self.progress = self.world.now
            return True
        self.note_failure(f"{head.status} {body[:200]!r}")
        return False

    def note_failure(self, what: str) -> None:
        self.world.tell(f"{self.name} failed: {what}")
        self.record.failed_reads.append(f"{self.world.now - 1000:.4f} {self.name} {what}")


class Writer(Client):
    """Creates and deletes objects, each under a name of its own, and never repeats itself."""

    kind = "writer"

    def begin(self) -> None:
        self._key = f"{self.name}-{self.world.number()}"
        if self.world.chance(0.5):
            self.request(b"POST", TARGET, self._key.encode())
        else:
            self.request(b"DELETE", TARGET + b"/" + self._key.encode())

    def on_answer(self, head: Head, body: bytes) -> None:
        if head.status in (200, 201):
            self.record.acknowledged.add(self._key)
            self.progress = self.world.now
        else:
            self.world.tell(f"{self.name} {self._key} got {head.status} {body[:120]!r}")
            if "retry-after" in head.fields:
                self.record.not_sent.add(self._key)
        self.again(0.1, 4.0)

    def on_broken(self, head: Head | None) -> None:
        self.again(0.1, 1.0)


class Reflector(Poller):
    """Lists once, and watches from then on."""

    kind = "reflector"
    lifetime = (5, 60)  # seconds of its watches

    def __init__(self, world: World, store: Store, record: Record, connect: Connect) -> None:
        super().__init__(world, store, record, connect)
        self.version = 0
        self._watching = False
        self._partial = b""
        self._since = 0.0
        self._news = 0
        self._expired = False

    def begin(self) -> None:
        if self.version == 0:
            self._watching = False
            super().begin()
            return
        self._watching = True
        self._partial, self._since, self._news, self._expired = b"", self.world.now, 0, False
        query = b"?allowWatchBookmarks=true&resourceVersion=%d&timeoutSeconds=%d&watch=true"
        self.request(b"GET", TARGET + query % (self.version, self.world.random.randint(*self.lifetime)))

    def on_answer(self, head: Head, body: bytes) -> None:
        if not self._watching:
            if self.take_list(head, body):
                self.version = int(json.loads(body)["metadata"]["resourceVersion"])
            self.again(0.0, 0.1)
        elif head.status == 410 or self._expired:
            self._list_again("expired")
        elif head.status != 200:
            if not is_held_off(head):
                self.note_failure(f"{head.status} {body[:200]!r}")
            self.again(0.5, 1.5)
        elif self._partial:
            raise Violation(f"{self.name}: a watch that ended well ends within an event: {self._partial!r}")
        elif not self._news and self.world.now - self._since < SHORT:
            self._list_again("very short watch")
        else:
            self.again(0.0, 0.1)

    @property
    def waiting(self) -> float:
        """For a list, or for the change that it should have seen by now."""
        if not self._watching or not self._waiting:
            return super().waiting
        return self.world.now - max(self._asked, self.store.written(self.version + 1, self.world.now))

    def on_piece(self, data: bytes) -> None:
        if not self._watching or self._head is None or self._head.status != 200:
            super().on_piece(data)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._take_event(line)

    def on_broken(self, head: Head | None) -> None:
        if not self._watching:
            super().on_broken(head)
            return
        self.record.broken_watches.append(f"{self.world.now - 1000:.4f} {self.name}")
        if head is not None and not self._news and self.world.now - self._since < SHORT:
            self._list_again("very short watch")
        else:
            self.again(0.1, 1.0)  # half an event is dropped

    def _take_event(self, line: bytes) -> None:
        self.progress = self.world.now
        event = json.loads(line)
        if event["type"] == "ERROR":
            self._expired = True
            return
        self._news += 1
        version, name = int(event["object"]["metadata"]["resourceVersion"]), event["object"]["metadata"]["name"]
        if event["type"] == "BOOKMARK":
            if version > self.version:
                raise Violation(f"{self.name} is at {self.version} and never saw what came before {version}")
            return
        self.record.events += 1
        if version != self.version + 1:
            raise Violation(f"{self.name} has seen version {self.version}, and now {version}")
        if name != self.store.log[version - Store.FIRST - 1]:
            raise Violation(f"{self.name} was told a lie about version {version}")
        self.version = version

    def _list_again(self, why: str) -> None:
        self.world.tell(f"{self.name} lists again: {why}")
        self.record.relists.append(f"{self.world.now - 1000:.4f} {self.name}: {why}")
        self.version = 0
        self.again(0.0, 0.5)

"""Any watch, any history, backends that die at any byte: each event comes once and in order, or there is an end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.http1 import ChunkedWalk
from lbproxy.core.watch import (
    LAST_CHUNK,
    Answer,
    WatchBody,
    judge_resumption,
    open_watch,
    parse_watch_request,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
Change = tuple[str, str, int]  # type, name, version


@dataclass
class Store:
    """What the apiservers share: every write there was, with versions that other resources' writes make jump."""

    changes: list[Change]

    @classmethod
    def random(cls, random: Random, size: int) -> Store:
        alive: set[str] = set()
        changes, version = [], 100
        for _ in range(size):
            version += random.choice([1, 1, 7])
            name = random.choice("abcdefgh")
            kind = "ADDED" if name not in alive else random.choice(["MODIFIED", "MODIFIED", "DELETED"])
            (alive.discard if kind == "DELETED" else alive.add)(name)
            changes.append((kind, name, version))
        return cls(changes)

    def existing(self, until: int) -> list[Change]:
        """What exists after so many changes, as made-up events."""
        last = {name: change for change in self.changes[:until] for name in change[1]}
        return [("ADDED", name, version) for kind, name, version in last.values() if kind != "DELETED"]


def line(kind: str, name: str, version: int, annotations: dict[str, str] | None = None) -> bytes:
    metadata = {"name": name, "resourceVersion": str(version), "annotations": annotations or {}}
    return json.dumps({"type": kind, "object": {"metadata": metadata}}, separators=(",", ":")).encode() + b"\n"


def serve(store: Store, target: bytes, now: int, oldest: int, random: Random) -> list[bytes]:
    """An apiserver's events for a watch that is opened after `now` changes; `oldest` is what its cache remembers."""
    query = dict(parse_qsl(target.partition(b"?")[2].decode()))
    version = int(query.get("resourceVersion", "0"))
    bookmarks = query.get("allowWatchBookmarks") == "true"
    lines = []
    if query.get("sendInitialEvents") == "true" or not version:
        existing = store.existing(now)
        random.shuffle(existing)
        lines = [line(*change) for change in existing]
        version = max([100, *(change[2] for change in store.changes[:now])])
        if query.get("sendInitialEvents") == "true":
            for change in store.changes[now : now + random.choice([0, 0, 2])]:
                lines.append(line(*change))
                version = change[2]
            lines.append(line("BOOKMARK", "", version, {"k8s.io/initial-events-end": "true"}))
    elif version < oldest:
        status = {"kind": "Status", "metadata": {}, "reason": "Expired", "code": 410}
        return [json.dumps({"type": "ERROR", "object": status}, separators=(",", ":")).encode() + b"\n"]
    for kind, name, changed in store.changes:
        if changed > version:
            lines.append(line(kind, name, changed))
            if bookmarks and random.random() < 0.3:
                lines.append(line("BOOKMARK", "", changed))
    return lines


def in_chunks(lines: list[bytes], random: Random) -> bytes:
    """As Go might have cut them."""
    payload, framed = b"".join(lines), b""
    while payload:
        size = random.choice([len(lines[0]), 17, 2048])
        framed += b"%x\r\n%b\r\n" % (len(payload[:size]), payload[:size])
        payload = payload[size:]
    return framed + LAST_CHUNK


class Client:
    """Its side of the balancer: a response's body, and the balancer's part in it."""

    def __init__(self, store: Store, target: bytes, now: int, random: Random) -> None:
        request = parse_watch_request(target)
        assert request is not None
        stream = open_watch(request, HEAD)
        assert stream is not None
        self.store, self.now, self.random = store, now, random
        self.request, self.stream, self.body = request, stream, WatchBody(stream)
        self.received = b""
        self.ended_early = False

    def run(self, cuts: list[int]) -> None:
        data = in_chunks(serve(self.store, self.request.target, self.now, 0, self.random), self.random)
        for cut in cuts:
            self._read(data[:cut])
            if cut >= len(data):
                return
            version = self.stream.resume_from
            if version is None:
                self.ended_early = True
                return
            for oldest in (self.random.choice([0, 10**6]), 0):  # the first one may just have restarted
                target = self.request.resumed_target(version, 1)
                assert judge_resumption(self.stream, 200, HEAD) is Answer.GO_ON
                self.body.resume()
                data = in_chunks(serve(self.store, target, 0, oldest, self.random), self.random)
                if oldest:
                    self._read(data)
                    assert self.stream.refused
                    assert self.stream.resume_from == version
        self._read(data)

    def _read(self, data: bytes) -> None:
        while data:
            size = self.random.choice([1, 40, 65536])
            self.received += self.body.feed(data[:size])
            data = data[size:]

    def events(self) -> list[Change]:
        pieces: list[bytes] = []
        ChunkedWalk().feed(self.received + LAST_CHUNK, 0, pieces)
        found = []
        for event in map(json.loads, b"".join(pieces).splitlines()):
            metadata = event["object"]["metadata"]
            if event["type"] != "BOOKMARK":
                found.append((event["type"], metadata["name"], int(metadata["resourceVersion"])))
        return found


starts = st.sampled_from(
    ["", "&resourceVersion=0", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "&resourceVersion=%d"]
)


@given(
    seed=st.integers(0, 2**32),
    size=st.integers(0, 30),
    start=starts,
    bookmarks=st.booleans(),
    cuts=st.lists(st.integers(0, 2500), max_size=6),
)
def test_each_event_once_and_in_order(seed: int, size: int, start: str, bookmarks: bool, cuts: list[int]) -> None:
    random = Random(seed)
    store = Store.random(random, size)
    now = random.randrange(size + 1)
    version = max([100, *(change[2] for change in store.changes[:now])])
    start = start.replace("%d", str(version))
    bookmarks = bookmarks or "sendInitialEvents" in start
    target = f"/api/v1/things?watch=1{start}&allowWatchBookmarks={str(bookmarks).lower()}".encode()
    client = Client(store, target, now, random)
    client.run(cuts)
    events = client.events()
    existing = [] if start.endswith(f"={version}") else store.existing(now)
    expected = store.changes[now:]
    made_up, followed = events[: len(existing)], events[len(existing) :]
    if client.ended_early:
        # Only while what exists is being sent, or when nothing has shown yet that it has been.
        assert not start.endswith(f"={version}")
        assert set(made_up) <= set(existing)
        assert len(set(made_up)) == len(made_up)
        assert followed == expected[: len(followed)]
        assert "sendInitialEvents" in start or all(kind == "ADDED" for kind, *_ in followed)
    else:
        assert sorted(made_up) == sorted(existing)
        assert followed == expected

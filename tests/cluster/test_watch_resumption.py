"""Watches of a real cluster, cut at random bytes and resumed at another master: nothing is missed or doubled.

Without a balancer: the core that a balancer would use, against what real apiservers send in every encoding they have.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from lbproxy.core.http1 import ChunkedWalk
from lbproxy.core.watch import LAST_CHUNK, Answer, WatchBody, judge_resumption, open_watch, parse_watch_request
from tests.cluster.control_plane import MASTERS, ControlPlane

pytestmark = pytest.mark.cluster

SECONDS = 12  # of each watch
WRITING = 8.0  # seconds
CUT = 40_000  # bytes between two cuts, at most
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
ENCODINGS = {
    "json": "application/json",
    "table": "application/json;as=Table;v=v1;g=meta.k8s.io",
    "partial": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "protobuf": "application/vnd.kubernetes.protobuf",
    "protobuf-partial": "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
}
SELECTIONS = ("", "&labelSelector=colour%3Dred", "&allowWatchBookmarks=true")


@dataclass
class Masters:
    context: ssl.SSLContext

    def call(self, number: int, method: str, path: str, body: object = None) -> dict[str, object]:
        """409 is an answer like others: what was asked for exists already."""
        connection = http.client.HTTPSConnection(MASTERS[number], 6443, context=self.context, timeout=10)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": kind})
        answer = connection.getresponse()
        data: dict[str, object] = json.loads(answer.read())
        connection.close()
        assert answer.status < 300 or answer.status == 409, data
        return data

    def open(self, number: int, target: bytes, accept: str) -> tuple[ssl.SSLSocket, bytes]:
        """A request sent, and its response's head."""
        plain = socket.create_connection((MASTERS[number], 6443), timeout=20)
        sock = self.context.wrap_socket(plain, server_hostname="localhost")
        sock.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nAccept: %b\r\n\r\n" % (target, accept.encode()))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            assert byte, head
            head += byte
        return sock, head


@dataclass
class Watcher:
    """One watch; `is_cut`: its backend goes away again and again, `cuts` times in the end."""

    masters: Masters
    accept: str
    target: bytes
    chance: random.Random
    is_cut: bool
    cuts: int = 0
    received: bytes = b""

    def run(self) -> None:
        request = parse_watch_request(self.target)
        assert request is not None
        began, number = time.monotonic(), self.chance.randrange(3)
        sock, head = self.masters.open(number, self.target, self.accept)
        stream = open_watch(request, head)
        assert stream is not None
        body = WatchBody(stream)
        left = self._next_cut()
        while body.end < 0:
            data = sock.recv(self.chance.choice([1, 50, 500, 4096, 65536]))
            assert data, "a master ended without a last chunk"
            data = data[:left]
            left -= len(data)
            self.received += body.feed(data)
            if not left and body.end < 0:
                sock.close()
                self.cuts += 1
                left = self._next_cut()
                version = stream.resume_from
                assert version is not None
                number = (number + self.chance.choice([1, 2])) % 3
                target = request.resumed_target(version, time.monotonic() - began)
                sock, head = self.masters.open(number, target, self.accept)
                assert judge_resumption(stream, int(head[9:12]), head) is Answer.GO_ON
                body.resume()
        sock.close()

    def _next_cut(self) -> int:
        return self.chance.randrange(1, CUT) if self.is_cut else 1 << 40

    def events(self) -> list[bytes]:
        """What a client sees, without what differs from one apiserver to the next in any case."""
        pieces: list[bytes] = []
        ChunkedWalk().feed(self.received + LAST_CHUNK, 0, pieces)
        payload = b"".join(pieces)
        found = _frames(payload) if "protobuf" in self.accept else map(_comparable, payload.splitlines())
        return [event for event in found if b"BOOKMARK" not in event[:30]]


def _frames(payload: bytes) -> Iterator[bytes]:
    while payload:
        size = 4 + int.from_bytes(payload[:4], "big")
        yield payload[:size]
        payload = payload[size:]


def _comparable(line: bytes) -> bytes:
    """A Table has its columns in a watch's first event, and says how old its rows are."""
    event = json.loads(line)
    event["object"].pop("columnDefinitions", None)
    for row in event["object"].get("rows", []):
        row["cells"].pop()
    return json.dumps(event).encode()


def _write(masters: Masters, chance: random.Random) -> None:
    """Small objects and large ones, through all masters, into and out of the selection."""
    alive: set[str] = set()
    end = time.monotonic() + WRITING
    while time.monotonic() < end:
        name = f"watched-{chance.randrange(20)}"
        labels = {"colour": chance.choice(["red", "blue"])}
        data = {"resourceVersion": "1", "padding": "x" * chance.choice([0, 100, 3000, 9000])}
        if name not in alive:
            alive.add(name)
            body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}, "data": data}
            masters.call(chance.randrange(3), "POST", CONFIGMAPS, body)
        elif chance.random() < 0.2:
            alive.discard(name)
            masters.call(chance.randrange(3), "DELETE", f"{CONFIGMAPS}/{name}")
        else:
            body = {"metadata": {"labels": labels}, "data": data}
            masters.call(chance.randrange(3), "PATCH", f"{CONFIGMAPS}/{name}", body)


def test_cut_at_random_bytes(cluster: ControlPlane) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    context = ssl.create_default_context(cafile=str(cluster.directory / "ca.crt"))
    context.load_cert_chain(cluster.directory / "admin.crt", cluster.directory / "admin.key")
    masters = Masters(context)
    listed = masters.call(0, "GET", CONFIGMAPS)["metadata"]
    assert isinstance(listed, dict)
    watchers: dict[tuple[str, str], list[Watcher]] = {}
    for encoding, accept in ENCODINGS.items():
        for selection in SELECTIONS:
            version = listed["resourceVersion"]
            target = f"{CONFIGMAPS}?watch=1&timeoutSeconds={SECONDS}&resourceVersion={version}{selection}".encode()
            watchers[encoding, selection] = [
                Watcher(masters, accept, target, random.Random(f"{seed} {encoding} {selection} {number}"), number > 0)
                for number in range(3)
            ]
    every = [watcher for group in watchers.values() for watcher in group]
    with ThreadPoolExecutor(len(every)) as pool:
        running = [pool.submit(watcher.run) for watcher in every]
        _write(masters, random.Random(seed))
        for future in running:
            future.result()
    print(f"{sum(watcher.cuts for watcher in every)} cuts")
    for name, (uncut, *cut) in watchers.items():
        expected = uncut.events()
        assert len(expected) > 20, name
        for watcher in cut:
            assert watcher.events() == expected, name
    assert sum(watcher.cuts for watcher in every) > len(every)

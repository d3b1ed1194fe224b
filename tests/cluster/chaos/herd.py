"""Hundreds of plain watchers, in one thread: who all come back at once, and whom nobody is nice to.

They speak HTTP/1.1 to a balancer in http mode, watch one namespace from a version on, and behave as client-go does: go
on from the last version they have seen, wait for as long as Retry-After says, and list anew after a 410. Whatever else
happens to a watch is an error. A writer makes a change each second, so that each of them knows a recent version.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import h11

from tests.cluster.balancer import until
from tests.cluster.chaos import history
from tests.cluster.chaos.plane import ChaosPlane

AGENT = "herd/1"
TICK = 1.0  # seconds between two changes
AGAIN = 0.2  # seconds until one that has failed tries again
LOOK = 0.05  # seconds between two looks at who is due
CONNECT_TIMEOUT = 2.0  # seconds
TAIL_TIMEOUT = 30.0  # seconds for the last change to reach everybody


@dataclass
class Watcher:
    """One of them. It has a connection, or a moment at which it is due to make one."""

    host: str
    path: str
    version: int
    versions: list[int] = field(default_factory=list)  # seen, in order; those in a LIST after a 410, too
    errors: list[str] = field(default_factory=list)
    ends: int = 0  # watches that ended as at the server's own timeout
    held_off: Counter[int] = field(default_factory=Counter)  # answers that said: later, by status
    relists: int = 0
    watching: bool = False
    due: float = 0.0
    connection: socket.socket | None = None
    _lists: bool = False
    _body: bytes = b""

    def open(self, address: tuple[str, int]) -> socket.socket:
        """Connect and ask. Raises OSError."""
        self.connection = socket.create_connection(address, timeout=CONNECT_TIMEOUT)
        self.connection.setblocking(False)
        self._http = h11.Connection(h11.CLIENT)
        self._body, self._status, self._retry_after = b"", 0, 0
        target = self.path if self._lists else f"{self.path}?watch=true&resourceVersion={self.version}"
        request = h11.Request(method="GET", target=target, headers=[("Host", self.host), ("User-Agent", AGENT)])
        self.connection.sendall((self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        return self.connection

    def close(self, again: float) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection, self.watching, self.due = None, False, time.monotonic() + again

    def receive(self) -> bool:
        """Take in what there is; whether the exchange goes on. Raises OSError, h11.RemoteProtocolError."""
        assert self.connection is not None
        self._http.receive_data(self.connection.recv(65536))
        while True:
            match self._http.next_event():
                case h11.Response(status_code=status, headers=headers):
                    self._status = status
                    self._retry_after = int(dict(headers).get(b"retry-after", b"0"))
                    self.watching = status == 200 and not self._lists
                case h11.Data(data=data):
                    self._body += data
                    if self.watching:
                        *lines, self._body = self._body.split(b"\n")
                        for line in lines:
                            self._see(json.loads(line))
                case h11.EndOfMessage():
                    self._finish()
                    return False
                case _:
                    return True

    def _see(self, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":
            self._lists = event["object"]["code"] == 410
            if not self._lists:
                self.errors.append(str(event["object"]))
            return
        self._know(event["object"])
        self.version = self.versions[-1]

    def _know(self, item: dict[str, Any]) -> None:
        self.versions.append(int(item["metadata"]["resourceVersion"]))

    def _finish(self) -> None:
        if self.watching:
            self.ends += not self._lists
            self.close(0.0)
        elif self._status == 200:
            self._take_list(json.loads(self._body))
            self.close(0.0)
        elif self._retry_after:
            self.held_off[self._status] += 1
            self.close(self._retry_after)
        else:
            self.errors.append(f"{self._status}: {self._body[:200].decode()}")
            self.close(AGAIN)

    def _take_list(self, answer: dict[str, Any]) -> None:
        """What it has not seen yet is in there: nothing in this namespace is ever changed or deleted."""
        known, listed = set(self.versions), [int(item["metadata"]["resourceVersion"]) for item in answer["items"]]
        self.versions += [version for version in sorted(listed) if version not in known]
        self.version, self._lists = int(answer["metadata"]["resourceVersion"]), False
        self.relists += 1


class Herd:
    def __init__(self, plane: ChaosPlane, front: str, namespace: str, count: int) -> None:
        made = plane.call(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        )
        metadata = made["metadata"]
        assert isinstance(metadata, dict)
        self.since = int(metadata["resourceVersion"])
        self.namespace = namespace
        self._plane = plane
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        host, _, port = front.removeprefix("http://").rpartition(":")
        self._address = (host, int(port))
        self.watchers = [Watcher(host, self._path, self.since) for _ in range(count)]
        self._over, self._written = threading.Event(), threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """All of them watch, and have seen a change, before the block; the last one has reached them after it."""
        threads = [threading.Thread(target=run) for run in (self._watch, self._write)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: all(one.versions for one in self.watchers), "the herd watches", TAIL_TIMEOUT)
            yield
            self._written.set()
            until(self._all_seen, "the herd has seen the last change", TAIL_TIMEOUT)
        finally:
            self._written.set()
            self._over.set()
            for thread in threads:
                thread.join()

    def assert_every_change_seen_once(self) -> None:
        """By each of them, and in order."""
        truth = [one.version for one in history.config_maps(self.namespace, self.since)]
        assert len(truth) > 1
        wrong = [one.versions for one in self.watchers if one.versions != truth]
        assert not wrong, f"{len(wrong)} watchers, the first: {wrong[0]}; the truth: {truth}"

    def errors(self) -> list[str]:
        return [error for one in self.watchers for error in one.errors]

    def _all_seen(self) -> bool:
        last = max(one.version for one in history.config_maps(self.namespace, self.since))
        return all(last in one.versions[-3:] for one in self.watchers)

    def _write(self) -> None:
        while not self._written.wait(TICK):
            with suppress(OSError):  # no master can
                config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "h-"}}
                self._plane.call("POST", self._path, config_map)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            while not self._over.is_set():
                self._open_due(selector)
                for key, _ in selector.select(LOOK):
                    self._receive(selector, key.data)
            for one in self.watchers:
                one.close(0.0)

    def _open_due(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for one in self.watchers:
            if one.connection is None and one.due <= now:
                try:
                    selector.register(one.open(self._address), selectors.EVENT_READ, one)
                except OSError as error:
                    one.errors.append(f"open: {error}")
                    one.close(AGAIN)

    def _receive(self, selector: selectors.BaseSelector, one: Watcher) -> None:
        assert one.connection is not None
        connection = one.connection
        try:
            goes_on = one.receive()
        except (OSError, h11.RemoteProtocolError) as error:
            one.errors.append(f"{type(error).__name__}: {error}")
            one.close(AGAIN)
            goes_on = False
        if not goes_on:
            selector.unregister(connection)

"""A plain watcher itself: what it must notice, it notices."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import h11
import pytest

from tests.cluster.chaos.herd import Watcher

OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def item(version: int) -> dict[str, object]:
    return {"metadata": {"resourceVersion": str(version)}}


def added(version: int) -> bytes:
    return json.dumps({"type": "ADDED", "object": item(version)}).encode() + b"\n"


class Server:
    """Answers each connection with the bytes it is told, and closes it."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = listener.getsockname()
        self._listener = listener

    def serve(self, watcher: Watcher, answer: bytes) -> bytes:
        """The watcher asks, and takes in the whole answer; the request line. Raises what the watcher raises."""
        watcher.open(self.address)
        with self._listener.accept()[0] as connection:
            asked = connection.recv(65536)
            connection.sendall(answer)
        assert watcher.connection is not None
        watcher.connection.setblocking(True)
        while watcher.receive():
            pass
        return asked.partition(b"\r\n")[0]


@pytest.fixture
def server() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Server(listener)


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher("127.0.0.1", "/api/v1/namespaces/n/configmaps", 3)
    yield made
    made.close(0.0)


def test_events_and_a_clean_end(server: Server, watcher: Watcher) -> None:
    """Whole events, however they are cut into chunks; it goes on after the last one."""
    text = added(5) + added(8)
    first = server.serve(watcher, OK + chunk(text[:20]) + chunk(text[20:]) + END)
    second = server.serve(watcher, OK + END)
    assert first == b"GET /api/v1/namespaces/n/configmaps?watch=true&resourceVersion=3 HTTP/1.1"
    assert second == b"GET /api/v1/namespaces/n/configmaps?watch=true&resourceVersion=8 HTTP/1.1"
    assert (watcher.versions, watcher.ends, watcher.errors) == ([5, 8], 2, [])


def test_a_cut(server: Server, watcher: Watcher) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        server.serve(watcher, OK + chunk(added(5)) + chunk(added(6)[:10]))
    assert watcher.versions == [5]


def test_an_event_twice(server: Server, watcher: Watcher) -> None:
    server.serve(watcher, OK + chunk(added(5) + added(5)) + END)
    assert watcher.versions == [5, 5]


def test_later(server: Server, watcher: Watcher) -> None:
    server.serve(watcher, b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
    assert (watcher.held_off, watcher.errors) == ({429: 1}, [])
    assert watcher.connection is None


def test_a_failure(server: Server, watcher: Watcher) -> None:
    server.serve(watcher, b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nnone")
    assert watcher.errors == ["503: none"]


def test_a_version_that_is_too_old(server: Server, watcher: Watcher) -> None:
    """It lists, takes what it has not seen from there, and goes on from the list's version."""
    gone = json.dumps({"type": "ERROR", "object": {"code": 410}}).encode() + b"\n"
    server.serve(watcher, OK + chunk(added(5) + gone) + END)
    answer = json.dumps({"metadata": {"resourceVersion": "12"}, "items": [item(9), item(5)]}).encode()
    assert server.serve(watcher, OK + chunk(answer) + END) == b"GET /api/v1/namespaces/n/configmaps HTTP/1.1"
    assert server.serve(watcher, OK + END).endswith(b"?watch=true&resourceVersion=12 HTTP/1.1")
    assert (watcher.versions, watcher.relists, watcher.ends, watcher.errors) == ([5, 9], 1, 1, [])

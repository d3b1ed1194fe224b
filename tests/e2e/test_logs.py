"""Logs as an operator reads them: who is behind a port, other formats, rotation."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy, wait_for
from tests.e2e.test_reload import OK, WATCH, pids
from tests.e2e.test_verbs import say
from tests.programs import require

GET = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"
WATCHING = b"GET /api/v1/pods?watch=true&resourceVersion=1 HTTP/1.1\r\nHost: a\r\n\r\n"


class Peer:
    """A backend that knows from where it is connected to."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.listening = socket.create_server(("127.0.0.1", free_port()))
        self.address = "{}:{}".format(*self.listening.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, (host, port) = self.listening.accept()
            except OSError:
                return
            self.seen.append(f"{host}:{port}")
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    @staticmethod
    def _serve(sock: socket.socket) -> None:
        with sock:
            while head := sock.recv(65536):
                sock.sendall(WATCH if b"watch=true" in head else OK)

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def config(port: int, peer: Peer, mode: str = "http", log: str = "access: {at: [open, close]}") -> str:
    return (
        f"listen: '127.0.0.1:{port}'\nmode: {mode}\nbackends: ['{peer.address}']\n"
        f"health_check: {{type: none}}\nlog: {{{log}}}\n"
    )


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def lines(lb: Lbproxy, *events: str) -> list[dict[str, object]]:
    return [line for line in lb.events() if line["event"] in events]


def test_who_is_behind_a_watch_while_it_lasts_and_afterwards(tmp_path: Path, peer: Peer) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, peer)) as lb:
        with connect(port) as client:
            address = "{}:{}".format(*client.getsockname())
            client.sendall(WATCHING)
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            (source,) = peer.seen
            wait_for(lambda: bool(lines(lb, "open")))
            now = say(tmp_path, "who", source)
            assert now.returncode == 0, now.stderr
            assert address in now.stdout
            assert "watch" in now.stdout
            begun = say(tmp_path, "who", source, "--log", str(lb.log))
            assert address in begun.stdout
            assert "still" in begun.stdout
            listed = say(tmp_path, "who", source, "--json").stdout
            assert listed.endswith("]\n")
            assert [one["client"] for one in json.loads(listed)] == [address]
        wait_for(lambda: bool(lines(lb, "request")))
        (opened,), (closed,) = lines(lb, "open"), lines(lb, "request")
        assert opened["source"] == closed["source"] == source
        assert opened["kind"] == "watch"
        assert isinstance(closed["head_s"], float)
        at = str(closed["ts"])
        ended = say(tmp_path, "who", source, at, "--log", str(lb.log), "--json")
        assert [line["client_port"] for line in json.loads(ended.stdout)] == [closed["client_port"]]
        nobody = say(tmp_path, "who", source, "2020-01-01T00:00:00Z", "--log", str(lb.log))
        assert nobody.returncode == 1
        assert "the nearest is from" in nobody.stderr
        gone = say(tmp_path, "who", source)
        assert gone.returncode == 1
        assert "--log FILE says who did" in gone.stderr


def test_a_kept_connection_to_a_backend_serves_several(tmp_path: Path, peer: Peer) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, peer)) as lb:
        for number in range(1, 4):
            with connect(port) as client:
                client.sendall(GET)
                assert client.recv(1000) == OK
            wait_for(lambda number=number: len(lines(lb, "request")) == number)  # type: ignore[misc]
        (source,) = peer.seen
        assert [line["source"] for line in lines(lb, "request")] == [source] * 3
        found = json.loads(say(tmp_path, "who", source, "--log", str(lb.log), "--json").stdout)
        assert len({line["client_port"] for line in found}) == 3


def test_a_tcp_relay_has_its_source_in_both_lines(tmp_path: Path, peer: Peer) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, peer, "tcp")) as lb:
        with connect(port) as client:
            client.sendall(GET)
            assert client.recv(1000) == OK
        wait_for(lambda: bool(lines(lb, "close")))
        assert [line["source"] for line in lines(lb, "open", "close")] == peer.seen * 2


def test_haproxys_format_by_haproxys_own_tool(tmp_path: Path, peer: Peer) -> None:
    port = free_port()
    halog = require("halog")
    with lbproxy(tmp_path, config(port, peer, log="access: {format: httplog}")) as lb:
        with connect(port) as client:
            for _ in range(10):
                client.sendall(GET)
                assert client.recv(1000) == OK
        wait_for(lambda: lb.log.read_text().count('"GET /api HTTP/1.1"') == 10)
        lines = lb.log.read_text().splitlines()
        access = "".join(f"{line}\n" for line in lines if line.endswith('"GET /api HTTP/1.1"'))
        done = subprocess.run([halog, "-s", "-4", "-st"], input=access, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["200", "10"]


def test_the_format_is_changed_by_a_reload(tmp_path: Path, peer: Peer) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, peer)) as lb, connect(port) as client:
        file = tmp_path / "lb.yaml"
        file.write_text(file.read_text().replace("access: {", "format: text, access: {format: text, "))
        assert say(tmp_path, "reload").returncode == 0
        assert " INFO    reload: reloaded " in lb.log.read_text()
        client.sendall(GET)
        assert client.recv(1000) == OK
        wait_for(lambda: f"-> {peer.address} GET /api 200" in lb.log.read_text())


def test_rotation(tmp_path: Path, peer: Peer) -> None:
    """As logrotate does it: rename, SIGUSR1; not a line is lost or in the wrong file."""
    port = free_port()
    with lbproxy(tmp_path, config(port, peer)) as lb, connect(port) as client:
        old = tmp_path / "lbproxy.log.1"
        for number in range(1, 4):
            client.sendall(GET)
            assert client.recv(1000) == OK
            wait_for(lambda: bool(lines(lb, "request")))
            lb.log.rename(old)
            lb.process.send_signal(signal.SIGUSR1)
            wait_for(lambda: lb.log.exists() and bool(lb.events("reopened")), f"rotation {number}")
            assert old.read_text().count('"request"') == 1
        assert os.stat(f"/proc/{lb.process.pid}/fd/2").st_ino == lb.log.stat().st_ino, "stderr has stayed behind"
        for pid in pids(lb):
            files = {os.path.realpath(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
            kept = {path for path in files if path.startswith(str(lb.log))} - {str(lb.log)}
            assert not kept, f"{pid} has old files open: their space would never be free"
        pause_accepting(pids(lb)[1], port)
        wait_for(lambda: bool(lb.events("worker")), "a worker's warning is not in the new file")
        assert "accepting pauses" in lb.events("worker")[0]["msg"]


def pause_accepting(worker: int, port: int) -> None:
    """Make a worker warn: it has no descriptor left for a client."""
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE, (1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        with connect(port) as client, contextlib.suppress(TimeoutError):
            client.settimeout(0.5)  # time for it to be seen
            client.recv(1)
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)

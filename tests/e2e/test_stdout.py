"""Whoever reads stdout may be slow or stand still: clients are served as always, and what is lost is counted."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.process import Lbproxy, free_port, wait_for
from tests.e2e.test_logs import Peer, connect, pause_accepting
from tests.e2e.test_reload import OK, pids
from tests.e2e.test_verbs import do, say

LONG = b"GET /" + b"x" * 7000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"  # a line of as much
GET = b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


class Quiet(Lbproxy):
    """Without a log that the test could read."""

    port = 0


@contextmanager
def started(directory: Path, peer: Peer, stdout: str) -> Iterator[Quiet]:
    """Everything that it writes goes to `stdout`: a file, or a pipe that is read by the test or not at all."""
    port, admin = free_port(), free_port()
    file = directory / "lb.yaml"
    file.write_text(
        f"listen: '127.0.0.1:{port}'\nmode: http\nbackends: ['{peer.address}']\nhealth_check: {{type: none}}\n"
        f"admin: {{bind: '127.0.0.1:{admin}', socket: '{directory}/lb.sock'}}\n"
    )
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "lbproxy", "-c", str(file)],
            stdout=subprocess.PIPE if stdout == "pipe" else full,
            stderr=subprocess.STDOUT,
        )
    with process:
        try:
            running = Quiet(process, directory / "none", admin)
            running.port = port
            wait_for(lambda: say(directory, "status").returncode == 0)
            yield running
        finally:
            process.kill()


def dropped(lb: Lbproxy) -> float:
    found = re.search(rb"^lbproxy_log_lines_dropped_total (\S+)$", lb.get("/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])


def ask(client: socket.socket, request: bytes, times: int = 1) -> None:
    for _ in range(times):
        client.sendall(request)
        assert client.recv(1000) == OK


def fill(lb: Lbproxy, client: socket.socket) -> None:
    """8 MB, where all that is kept is 4 and some."""
    ask(client, LONG, 1200)
    wait_for(lambda: dropped(lb) > 0)


def read_until(process: subprocess.Popen[bytes], text: bytes) -> list[bytes]:
    """Lines, up to one with that in it."""
    assert process.stdout is not None
    lines: list[bytes] = []
    while not lines or text not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "it has ended"
        assert len(lines) < 10_000
    return lines


def test_a_full_disk(tmp_path: Path, peer: Peer) -> None:
    with started(tmp_path, peer, "full") as lb:
        with connect(lb.port) as client:
            ask(client, GET, 10)
            wait_for(lambda: dropped(lb) >= 10)
        assert lb.stop(signal.SIGTERM) == 0


def test_a_reader_that_stands_still_and_goes_on(tmp_path: Path, peer: Peer) -> None:
    with started(tmp_path, peer, "pipe") as lb, connect(lb.port) as client:
        fill(lb, client)
        first = read_until(lb.process, b'"level": "info", "event": "ready"')  # what was kept is the oldest
        assert len(first) < 20
        kept = 0
        while kept < 300:  # 2 MB, which is more than can be between the worker and what keeps lines
            kept += b'"target":"/xxx' in read_until(lb.process, b"\n")[-1]
        asked = 0

        def last_is_kept() -> bool:  # the worker may have no room for its line yet
            nonlocal asked
            before = dropped(lb)
            ask(client, GET)
            asked += 1
            return dropped(lb) == before

        wait_for(last_is_kept)
        *others, last = read_until(lb.process, b'"target":"/last"')
        kept += sum(b'"target":"/xxx' in line for line in others)
        assert json.loads(last)["status"] == 200
        lost = dropped(lb)
        assert 0 <= lost - (1200 - kept) < asked, "neither kept nor counted as lost"
        client.close()
        assert lb.stop(signal.SIGTERM) == 0


def test_a_worker_that_warns_does_not_wait_for_the_reader_of_stderr(tmp_path: Path, peer: Peer) -> None:
    with started(tmp_path, peer, "pipe") as lb, connect(lb.port) as client:
        fill(lb, client)
        pause_accepting(pids(lb)[1], lb.port)
        ask(client, GET)
        wait_for(lambda: lb.status()["workers"][0]["ready"])
        read_until(lb.process, b'"target":"/last"')


def test_an_upgrade_while_nobody_reads(tmp_path: Path, peer: Peer) -> None:
    with started(tmp_path, peer, "pipe") as lb, connect(lb.port) as client:
        fill(lb, client)
        assert do(tmp_path, "upgrade").startswith("upgraded from ")
        ask(client, GET)
        lines = read_until(lb.process, b'"target":"/last"')
        (at,) = (number for number, line in enumerate(lines) if b'"event": "upgraded"' in line)
        for line in lines[at:]:
            json.loads(line)
        cut = [line for line in lines[:at] if line.startswith(b"{") and not line.endswith(b"}\n")]
        assert len(cut) <= 1, "one line may have been cut by the exec"
        assert b'"upgraded"' not in b"".join(cut)
        client.close()
        assert lb.stop(signal.SIGTERM) == 0

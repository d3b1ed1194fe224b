"""Socket activation by systemd's own program: the socket is there before lbproxy, and between two of them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.process import PATIENCE, admin_section, free_port, wait_for
from tests.e2e.test_reload import OK, Load, Master
from tests.e2e.test_verbs import GET, do
from tests.programs import require

# What a service manager does between fork and exec.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "lbproxy", "-c", sys.argv[2]])
"""


@pytest.fixture
def master() -> Iterator[Master]:
    master = Master()
    yield master
    master.close()


@contextmanager
def activated(directory: Path, *binds: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """systemd-socket-activate, which becomes lbproxy when a client comes."""
    log = directory / "log"
    words = [word for bind in binds for word in ("-l", bind)]
    names = ":".join(f"name{number}" for number in range(len(binds)))
    command = [require("systemd-socket-activate"), *words, f"--fdname={names}", "-E", "PYTHONPATH", sys.executable]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-m", "lbproxy", "-c", str(directory / "lb.yaml")], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(lambda: log.read_text().count("Listening on") == len(binds))
        yield process, log
    finally:
        process.terminate()
        process.wait(PATIENCE)


def events(log: Path, name: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def test_the_first_client_starts_it_and_is_served(tmp_path: Path, master: Master) -> None:
    port, admin = free_port(), free_port()
    (tmp_path / "lb.yaml").write_text(
        f"listen: '127.0.0.1:{port}'\nmode: http\nbackends: ['{master.address}']\nworkers: 2\n"
        + admin_section(tmp_path, admin)
    )
    with activated(tmp_path, f"127.0.0.1:{port}", f"127.0.0.1:{admin}") as (process, log):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(GET)
            assert client.recv(len(OK), socket.MSG_WAITALL).startswith(b"HTTP/1.1 200")
        wait_for(lambda: bool(events(log, "ready")))
        (ready,) = events(log, "ready")
        assert (
            f"handed over by the service manager: 127.0.0.1:{port} (name0), 127.0.0.1:{admin} (name1)" in ready["msg"]
        )
        # The runtime socket was not handed over: it is made here.
        workers = [str(one["pid"]) for one in json.loads(do(tmp_path, "status", "--json"))["workers"]]
        assert len(workers) == 2
        assert b"LISTEN_FDS=2" in Path(f"/proc/{process.pid}/environ").read_bytes()
        for pid in workers:
            assert b"LISTEN_" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_what_is_not_in_lb_yaml_is_an_error(tmp_path: Path, master: Master) -> None:
    port, other = free_port(), free_port()
    (tmp_path / "lb.yaml").write_text(
        f"listen: '127.0.0.1:{port}'\nmode: tcp\nbackends: ['{master.address}']\nadmin: {{bind: off, socket: off}}\n"
    )
    with activated(tmp_path, f"127.0.0.1:{other}") as (process, log):
        socket.create_connection(("127.0.0.1", other), PATIENCE).close()
        assert process.wait(PATIENCE) == 1
    assert f"handed over 127.0.0.1:{other} (name0), but lb.yaml listens on 127.0.0.1:{port}" in log.read_text()


def test_a_restart_refuses_nobody(tmp_path: Path, master: Master) -> None:
    """The socket is held by somebody else, as systemd does it: clients wait in its queue for the next lbproxy."""
    port = free_port()
    file, log = tmp_path / "lb.yaml", tmp_path / "log"
    file.write_text(
        f"listen: '127.0.0.1:{port}'\nmode: http\nbackends: ['{master.address}']\n"
        "admin: {bind: off, socket: off}\nshutdown: {spread: 0s}\n"
    )
    load = Load()
    with socket.create_server(("127.0.0.1", port)) as held, log.open("wb") as output:
        load.start(load.ask_anew, port, 2)
        for _ in range(3):
            process = subprocess.Popen(
                [sys.executable, "-c", HAND_OVER, str(held.fileno()), str(file)],
                pass_fds=[held.fileno()],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                served = load.requests
                wait_for(lambda served=served: load.requests > served + 50)  # type: ignore[misc]
                if len(events(log, "ready")) == 3:
                    load.stop()
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == 0
    assert not load.errors


def test_what_was_handed_over_goes_on_through_upgrades(tmp_path: Path, master: Master) -> None:
    """And stays the service manager's: lbproxy removes no file that it has not made."""
    port, admin = free_port(), free_port()
    runtime = tmp_path / "lb.sock"
    (tmp_path / "lb.yaml").write_text(
        f"listen: '127.0.0.1:{port}'\nmode: tcp\nbackends: ['{master.address}']\nworkers: 2\n"
        "health_check: {type: none}\n" + admin_section(tmp_path, admin)
    )
    with ExitStack() as stack:
        process, log = stack.enter_context(activated(tmp_path, f"127.0.0.1:{port}", str(runtime)))
        runtime.chmod(0o600)  # SocketMode=
        relay = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
        for number in range(3):
            relay.sendall(GET)
            assert relay.recv(len(OK), socket.MSG_WAITALL) == OK
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(GET)
                assert client.recv(len(OK), socket.MSG_WAITALL) == OK
            wait_for(lambda number=number: len(events(log, "ready")) == number + 1)  # type: ignore[misc]
            ready = events(log, "ready")[-1]["msg"]
            assert f"handed over by the service manager: 127.0.0.1:{port} (name0), unix:{runtime} (name1)" in ready
            assert do(tmp_path, "upgrade").startswith("upgraded from ")
            assert do(tmp_path, "reload") == "nothing has changed\n"
        process.send_signal(signal.SIGTERM)
        relay.close()
        assert process.wait(PATIENCE) == 0
        assert runtime.is_socket()

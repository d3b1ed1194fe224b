"""SIGTERM: nobody who was let in is turned away, watches end as at a server's timeout, the rest has its time."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import lbproxy as package
from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy, wait_for
from tests.e2e.test_reload import OK, Master

LAST = b"0\r\n\r\n"
WATCH = b"GET /api/v1/pods?watch=true&resourceVersion=100 HTTP/1.1\r\nHost: a\r\n\r\n"
GET = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master()
    yield made
    made.close()


def config(port: int, master: Master, mode: str = "http", **shutdown: str) -> str:
    times = ", ".join(f"{name}: {value}" for name, value in shutdown.items())
    return (
        f"listen: '127.0.0.1:{port}'\nmode: {mode}\nbackends: ['{master.address}']\n"
        f"shutdown: {{{times}}}\nhealth_check: {{type: http}}\n"
    )


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while got := sock.recv(65536):
        data += got
    return data


def pid_of_worker(lb: Lbproxy) -> int:
    pid: int = lb.status()["workers"][0]["pid"]
    return pid


def test_watches_get_their_last_chunk_and_then_the_process_ends(tmp_path: Path, master: Master) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, master, drain="60s", spread="1s")) as lb, ExitStack() as stack:
        watches = [stack.enter_context(connect(port)) for _ in range(20)]
        for sock in watches:
            sock.sendall(WATCH)
        wait_for(lambda: lb.status()["pools"][0]["backends"][0]["long_streams"] == 20)
        began = time.monotonic()
        lb.process.send_signal(signal.SIGTERM)
        ends = []
        for sock in watches:
            answer = read_all(sock)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(LAST)
            assert answer.count(b'"ADDED"') > 0
            ends.append(time.monotonic() - began)
        assert lb.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 10  # and not 60


def test_the_ends_are_spread(tmp_path: Path, master: Master) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, master, drain="60s", spread="2s")) as lb, ExitStack() as stack:
        watches = [stack.enter_context(connect(port)) for _ in range(30)]
        for sock in watches:
            sock.sendall(WATCH)
        wait_for(lambda: lb.status()["pools"][0]["backends"][0]["long_streams"] == 30)
        lb.process.send_signal(signal.SIGTERM)
        counts = sorted(read_all(sock).count(b'"ADDED"') for sock in watches)
        # An event comes every 20 ms: whoever goes last has seen a second's worth more than whoever goes first.
        assert counts[-1] - counts[0] > 40


def test_who_waits_in_the_accept_queue_is_served(tmp_path: Path, master: Master) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, master, drain="20s")) as lb, ExitStack() as stack:
        worker = pid_of_worker(lb)
        os.kill(worker, signal.SIGSTOP)
        try:
            clients = [stack.enter_context(connect(port)) for _ in range(200)]
            for sock in clients:
                sock.sendall(GET)
            lb.process.send_signal(signal.SIGTERM)
            wait_for(lambda: lb.get("/readyz")[0] == 503)
        finally:
            os.kill(worker, signal.SIGCONT)
        for sock in clients:
            answer = read_all(sock)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"ok")
        assert lb.process.wait(PATIENCE) == 0


def test_a_relay_lives_until_the_drain_is_over(tmp_path: Path, master: Master) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, master, "tcp", drain="2s")) as lb, connect(port) as sock:
        sock.sendall(GET)
        assert sock.recv(100) == OK
        began = time.monotonic()
        lb.process.send_signal(signal.SIGTERM)
        wait_for(lambda: lb.get("/readyz")[0] == 503)
        sock.sendall(GET)
        assert sock.recv(100) == OK
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
        assert time.monotonic() - began > 1.9
        assert lb.process.wait(PATIENCE) == 0


def test_during_the_delay_everything_is_served_and_keepalived_knows(tmp_path: Path, master: Master) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, master, delay="1s", drain="20s")) as lb:
        began = time.monotonic()
        lb.process.send_signal(signal.SIGTERM)
        wait_for(lambda: lb.get("/readyz")[0] == 503)
        assert lb.get("/livez")[0] == 200
        served = 0
        while time.monotonic() - began < 0.8:
            with connect(port) as sock:
                sock.sendall(GET)
                assert sock.recv(100) == OK
                served += 1
        assert served > 3
        assert lb.process.wait(PATIENCE) == 0


def test_a_worker_that_hangs_does_not_hold_up_the_end(tmp_path: Path, master: Master) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, master, drain="1s")) as lb:
        os.kill(pid_of_worker(lb), signal.SIGSTOP)
        lb.process.send_signal(signal.SIGTERM)
        assert lb.process.wait(PATIENCE) == 0


def test_a_reload_that_comes_too_late_is_refused(tmp_path: Path, master: Master) -> None:
    """It reads lb.yaml in another process, and there is no socket left to listen on when it has."""
    port = free_port()
    with lbproxy(tmp_path, config(port, master, "tcp")) as lb, connect(port) as relay:  # which keeps the drain going
        relay.sendall(GET)
        assert relay.recv(100)
        file = tmp_path / "lb.yaml"
        file.write_text(file.read_text().replace("{type: http}", "{type: http, rise: 2}"))
        lb.process.send_signal(signal.SIGHUP)
        lb.process.send_signal(signal.SIGTERM)
        wait_for(lambda: bool(lb.events("reload_failed")))
        assert lb.stop() == 0
        (refused,) = lb.events("reload_failed")
        assert "shutting down" in refused["msg"]


@pytest.mark.parametrize(("number", "module"), [(signal.SIGHUP, "config_process"), (signal.SIGUSR2, "upgrade")])
def test_a_stop_at_once_waits_for_nobody_who_is_asked(
    tmp_path: Path, master: Master, number: signal.Signals, module: str
) -> None:
    """The process that reads lb.yaml, which is a pipe here that nobody writes; the installed version, which ponders."""
    installed = None
    if module == "upgrade":
        installed = tmp_path / "installed"
        shutil.copytree(Path(package.__file__).parent, installed / "lbproxy")
        file = installed / "lbproxy" / "control" / "upgrade.py"
        main = 'if __name__ == "__main__":\n'
        file.write_text(file.read_text().replace(main, f"{main}    signal.pause()\n"))
    with lbproxy(tmp_path, config(free_port(), master), installed) as lb:
        (tmp_path / "lb.yaml").unlink()
        os.mkfifo(tmp_path / "lb.yaml")
        lb.process.send_signal(number)
        wait_for(lambda: _children(lb, module) != [])
        (asked,) = _children(lb, module)
        lb.process.send_signal(signal.SIGINT)
        assert lb.process.wait(PATIENCE / 2) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(asked, 0)


def _children(lb: Lbproxy, module: str) -> list[int]:
    """Those that run a module of control."""
    tasks = Path(f"/proc/{lb.process.pid}/task").glob("*/children")  # by the thread that started them
    listed = [pid for task in tasks for pid in task.read_text().split()]
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in listed}
    return [pid for pid, line in lines.items() if f"lbproxy.control.{module}".encode() in line]

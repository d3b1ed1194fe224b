"""What a service manager is told, and that nobody waits for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbproxy.control.service_manager import ServiceManager
from tests.e2e.process import PATIENCE, free_port, wait_for
from tests.e2e.test_verbs import do


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.settimeout(PATIENCE)
        yield sock


def test_without_one_nothing_happens() -> None:
    service = ServiceManager({})
    assert service.watchdog == 0
    service.ready()
    service.status("fine")


def test_what_is_said_and_that_the_variables_are_ours_alone(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager(environ)
    assert environ == {}
    assert service.watchdog == 3.0
    service.ready()
    service.status("2 of 3")
    service.status("2 of 3")
    service.alive()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.reloading()
    service.stopping()
    assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"STATUS=2 of 3", b"WATCHDOG=1"]
    reloading, _, when = manager.recv(100).partition(b"\nMONOTONIC_USEC=")
    assert reloading == b"RELOADING=1"
    assert before <= int(when) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.recv(100) == b"STOPPING=1"


def test_a_watchdog_for_somebody_else_is_not_ours() -> None:
    assert ServiceManager({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog == 0


def test_an_abstract_address(manager: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"lbproxy-test-{os.getpid()}"
        sock.bind("\0" + name)
        sock.settimeout(PATIENCE)
        ServiceManager({"NOTIFY_SOCKET": "@" + name}).ready()
        assert sock.recv(100) == b"READY=1"


def test_one_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})
    for _ in range(100_000):
        service.alive()


def test_the_real_process(tmp_path: Path, manager: socket.socket) -> None:
    file = tmp_path / "lb.yaml"
    file.write_text(
        f"listen: '127.0.0.1:{free_port()}'\nmode: tcp\nbackends: ['127.0.0.1:{free_port()}']\n"
        f"admin: {{bind: '127.0.0.1:{free_port()}', socket: '{tmp_path}/lb.sock'}}\n"
    )
    environ = {**os.environ, "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "400000"}
    command = [sys.executable, "-m", "lbproxy", "-c", str(file)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        try:
            seen: list[bytes] = []

            def expect(text: bytes) -> None:
                deadline = time.monotonic() + PATIENCE
                while not any(text in message for message in seen):
                    assert time.monotonic() < deadline, (text, seen)
                    message, ((_, _, credentials),), _, _ = manager.recvmsg(200, 200)
                    assert struct.unpack("3i", credentials)[0] == process.pid, "NotifyAccess=main"
                    seen.append(message)
                assert not any(b"MAINPID" in message for message in seen), "it stays the same"
                seen.clear()

            expect(b"READY=1")
            expect(b"STATUS=0 of 1 backends get connections")
            expect(b"WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            expect(b"RELOADING=1")
            expect(b"READY=1")
            for _ in range(2):
                process.send_signal(signal.SIGUSR2)
                expect(b"RELOADING=1")
                expect(b"READY=1")
                expect(b"STATUS=0 of 1 backends get connections")
                expect(b"WATCHDOG=1")
                expect(b"WATCHDOG=1")
                _wait_for_heirs(tmp_path)
            process.send_signal(signal.SIGTERM)
            expect(b"STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def _wait_for_heirs(directory: Path) -> None:
    """Until the workers of the version before are gone: a second upgrade is refused before that."""
    wait_for(lambda: json.loads(do(directory, "status", "--json"))["handing_over"] == 0)

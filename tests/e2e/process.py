"""The real lbproxy process, started from a lb.yaml text and stopped by pid."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATIENCE = 15.0  # seconds for what should take a fraction of one
PORTS = range(24000, 32000)
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has now, and that was not given before.

    From below the range that the kernel takes clients' ports from: one of those may be a client's a moment later.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise OSError(f"no port from {PORTS[0]} to {PORTS[-1]} is free")


def wait_for(condition: Callable[[], bool], what: str = "", seconds: float = PATIENCE) -> None:
    """Wait until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what or "the condition did not come true")
        time.sleep(0.01)


class Lbproxy:
    """A running process and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, admin: int) -> None:
        self.process = process
        self.log = log
        self.admin = admin

    def get(self, path: str) -> tuple[int, bytes]:
        """A GET of the admin endpoint."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def status(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.get("/status")[1])
        return parsed

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The log's lines, or those of one event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if name in ("", line["event"])]

    def wait_event(self, name: str) -> dict[str, Any]:
        """Wait for the first event of a name."""
        wait_for(lambda: bool(self.events(name)) or self.process.poll() is not None, f"no {name}")
        found = self.events(name)
        assert found, self.log.read_text()
        return found[0]

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop it; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def admin_section(directory: Path, port: int) -> str:
    """What is added to each configuration."""
    return f"admin: {{bind: '127.0.0.1:{port}', socket: '{directory}/lb.sock'}}\n"


@contextmanager
def lbproxy(directory: Path, config: str, package: Path | None = None) -> Iterator[Lbproxy]:
    """Run lbproxy with a configuration; `admin:` is added to it. Checks that it met no bug.

    `package` is where to run it from, for a copy of it.
    """
    admin = free_port()
    file = directory / "lb.yaml"
    file.write_text(f"{config}\n{admin_section(directory, admin)}")
    log = directory / "lbproxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lbproxy", "-c", str(file)], stdout=output, stderr=subprocess.STDOUT, cwd=package
        )
    running = Lbproxy(process, log, admin)
    try:
        running.wait_event("ready")
        yield running
        assert "internal error" not in log.read_text()
    finally:
        running.stop()

"""The load: wrk, and a probe of our own that reads one answer to its last byte."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.scenarios import Scenario

REPORT = Path(__file__).with_name("wrk_report.lua")
PROBE_SECONDS = 5.0


class LoadError(Exception):
    """The load could not be made, or the answer is not what the backends serve."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    requests: int  # complete answers
    bytes: int  # received in all, heads and bodies
    duration_us: int
    p50_us: int
    p99_us: int
    max_us: int
    errors: dict[str, int]

    @property
    def failed(self) -> int:
        """Errors of sockets, timeouts and answers of status 400 and above."""
        return sum(self.errors.values())

    def has_every_byte(self, answer_size: int, connections: int) -> bool:
        """Are the bytes those of the complete answers, give or take the answers that the end of the run cut off?

        The last answer of a connection may be a few bytes shorter: `close` instead of `keep-alive` (nginx as it comes
        closes after 1,000 requests).
        """
        extra = self.bytes - self.requests * answer_size
        return abs(extra) <= connections * answer_size


def run_wrk(scenario: Scenario, port: int, connections: int, seconds: int) -> Load:
    """Load a port with as many requests as it takes. Raises LoadError."""
    argv = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--timeout", "5s"]
    argv += ["--script", str(REPORT)]
    argv += ["--header", "Connection: close"] if scenario.close else []
    argv += [f"http://127.0.0.1:{port}{scenario.resource.path}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            output, _ = wrk.communicate(timeout=seconds + 15)
        except subprocess.TimeoutExpired:
            raise LoadError("wrk did not end") from None
        finally:
            wrk.kill()  # no-op when it has ended
    return load_from(output)


def load_from(output: str) -> Load:
    """Read the line that wrk_report.lua adds. Raises LoadError."""
    for line in output.splitlines():
        if line.startswith("REPORT "):
            return Load(**json.loads(line.removeprefix("REPORT ")))
    raise LoadError(f"wrk gave no report: {output.strip() or 'it said nothing'}")


def probe(scenario: Scenario, port: int) -> int:
    """Ask once, verify status and body; the size of the answer, head and body. Raises LoadError, OSError."""
    close = "Connection: close\r\n" if scenario.close else ""
    request = f"GET {scenario.resource.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{close}\r\n"
    with socket.create_connection(("127.0.0.1", port), PROBE_SECONDS) as connection:
        connection.sendall(request.encode())
        head, body = _read_answer(connection)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise LoadError(f"answered {head.partition(bytes([13]))[0]!r}")
    if hashlib.sha256(body).hexdigest() != scenario.resource.digest:
        raise LoadError(f"sent {len(body)} bytes that are not the backends' {len(scenario.resource.body)}")
    return len(head) + len(body)


def _read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head with its blank line, and body: exactly Content-Length, for everyone here keeps the backends' framing."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, blank, body = received.partition(b"\r\n\r\n")
    length = content_length(head)
    while len(body) < length:
        body += _some(connection)
    return head + blank, body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise LoadError("closed before the answer was complete")
    return data


def content_length(head: bytes) -> int:
    """The Content-Length of a response head. Raises LoadError if it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise LoadError("answered without Content-Length")

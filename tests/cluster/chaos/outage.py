"""All masters down and back: how long a balancer lets somebody wait whom it cannot serve, and who comes when it can."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.cluster.balancer import until
from tests.cluster.chaos.faults import start_all, stop_all
from tests.cluster.chaos.plane import ChaosPlane
from tests.cluster.control_plane import MASTERS, START_TIMEOUT

ASKED = 20  # times
PAUSE = 0.1  # seconds
PATIENCE = 5.0  # seconds
REQUEST = b"GET /api/v1/namespaces HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Refusal:
    seconds: float
    answer: bytes  # or nothing: the connection was refused, reset or closed


@dataclass
class Outage:
    """A fault: nobody is there for some seconds, in which it is asked."""

    front: str
    served: Callable[[], bool]
    refusals: list[Refusal] = field(default_factory=list)
    back: float = 0.0  # seconds from the first master's readiness to somebody who is served

    def run(self, plane: ChaosPlane) -> None:
        stop_all(plane)
        self.refusals += refusals(self.front, ASKED, PAUSE)
        start_all(plane)
        until(lambda: any(plane.ready(number) for number in range(len(MASTERS))), "a master is ready", START_TIMEOUT)
        self.back = until(self.served, "somebody is served", PATIENCE)
        plane.wait_all_ready()


def refusals(front: str, count: int, pause: float) -> list[Refusal]:
    """Of so many new connections, one after the other. Raises TimeoutError if one is held."""
    found = []
    for _ in range(count):
        found.append(_refusal(front))
        time.sleep(pause)
    return found


def _refusal(front: str) -> Refusal:
    parts, began = urlsplit(front), time.monotonic()
    answer = b""
    try:
        with socket.create_connection((parts.hostname, parts.port), PATIENCE) as connection:
            if parts.scheme == "http":
                connection.sendall(REQUEST)
            while piece := connection.recv(65536):
                answer += piece
    except ConnectionError:
        pass
    return Refusal(time.monotonic() - began, answer)

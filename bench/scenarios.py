"""What is asked of every contender: the rows of the benchmark."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from enum import Enum

SMALL_BODY = (
    b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success",'
    b'"message":"an answer of the usual small size"}'
)
# Fixed, so that two runs ask for the same bytes; random, so that nothing in between can make it smaller.
LARGE_BODY = random.Random(1).randbytes(1_000_000)


class Mode(Enum):
    TCP = "tcp"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that the backends serve."""

    path: str
    body: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


SMALL = Resource("/", SMALL_BODY)
LARGE = Resource("/large", LARGE_BODY)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. An operation is one complete answer, and with `close` its connection too."""

    name: str
    mode: Mode  # which contenders take part
    title: str
    resource: Resource
    reach: float  # what is aimed at: lbproxy's CPU per operation ÷ nginx's
    dream: float
    close: bool = False  # the client opens a connection for each request, and asks for its end
    bulk: bool = False  # the cost is in the bytes: variants that differ only in how they move bytes take part


SCENARIOS = (
    Scenario("tcp-keepalive", Mode.TCP, "tcp: small request on a kept connection", SMALL, 1.2, 1.0),
    Scenario("http-keepalive", Mode.HTTP, "http: small request on a kept connection", SMALL, 1.25, 1.0),
    Scenario("tcp-connection", Mode.TCP, "tcp: a connection per request", SMALL, 1.4, 1.1, close=True),
    Scenario("http-connection", Mode.HTTP, "http: a client connection per request", SMALL, 1.4, 1.1, close=True),
    Scenario("tcp-1m", Mode.TCP, "tcp: 1 MB bodies", LARGE, 0.6, 0.45, bulk=True),
    Scenario("http-1m", Mode.HTTP, "http: 1 MB bodies", LARGE, 0.7, 0.5, bulk=True),
)

"""Access-log lines, to the byte, and what becomes of them on their way out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from lbproxy.core.config import Backend
from lbproxy.core.http1 import parse_request_line
from lbproxy.core.peer import Peer
from lbproxy.core.termination import Termination
from lbproxy.dataplane.access_log import HELD, AccessLog, Request
from lbproxy.dataplane.reactor import Reactor
from tests.dataplane.harness import address

STAMP = re.compile(r'^\{"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",')
PEER = Peer(0, Backend(address("127.0.0.1", 6443)))
LABEL = '"listener":"api","pool":"p"'


def entry(began: float, answered: float, ended: float, peer: Peer | None = PEER, *, whole: bool = True) -> Request:
    line = parse_request_line(b"GET /api/v1/pods HTTP/1.1") if whole else None
    end = Termination.NORMAL if peer is not None else Termination.NO_BACKEND
    status = 200 if peer is not None else 503
    return (
        LABEL, "10.0.0.1", 40000, line, status, peer, "10.0.0.9:50000", began, answered, ended, 3, 14, False, end,
    )  # fmt: skip


class Pipe:
    """A log, and what has come out of it."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.reactor = Reactor()
        self.log = AccessLog(writer, self.reactor)
        self.writer = writer

    def read(self) -> list[str]:
        """The lines, without their time."""
        self.reactor.settle()
        text = b""
        try:
            while data := os.read(self.reader, 1 << 20):
                text += data
        except BlockingIOError:
            pass
        return [STAMP.sub("", line) for line in text.decode().splitlines()]

    def close(self) -> None:
        self.reactor.close_all()
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
async def pipe() -> Iterator[Pipe]:  # type: ignore[misc]
    made = Pipe()
    yield made
    made.close()


async def test_a_request(pipe: Pipe) -> None:
    pipe.log.write(entry(100.0, 100.0204, 101.5))
    assert pipe.read() == [
        '"event":"request","mode":"http","listener":"api","pool":"p","client":"10.0.0.1","client_port":40000,'
        '"method":"GET","target":"/api/v1/pods","status":200,"backend":"127.0.0.1:6443","source":"10.0.0.9:50000",'
        '"head_s":0.020,"duration_s":1.500,"bytes_in":3,"bytes_out":14,"long":false,"end":"--"}'
    ]


async def test_one_that_nobody_could_read_and_that_went_nowhere(pipe: Pipe) -> None:
    pipe.log.write(entry(100.0, 0.0, 100.25, None, whole=False))
    assert pipe.read() == [
        '"event":"request","mode":"http","listener":"api","pool":"p","client":"10.0.0.1","client_port":40000,'
        '"method":"","target":"","status":503,"backend":null,"source":"","head_s":null,"duration_s":0.250,'
        '"bytes_in":3,"bytes_out":14,"long":false,"end":"PC"}'
    ]


async def test_one_that_was_never_answered(pipe: Pipe) -> None:
    pipe.log.write(entry(100.0, 99.0, 100.25))
    assert '"head_s":null,"duration_s":0.250,' in pipe.read()[0]


async def test_lines_stay_in_order(pipe: Pipe) -> None:
    pipe.log.write('"event":"open"')
    pipe.log.write(entry(100.0, 100.0, 100.0))
    pipe.log.say('{"level":"warning"}')
    pipe.log.write('"event":"close"')
    first, second, third, fourth = pipe.read()
    assert (first, third, fourth) == ('"event":"open"}', '{"level":"warning"}', '"event":"close"}')
    assert second.startswith('"event":"request"')


async def test_what_does_not_fit_is_counted(pipe: Pipe) -> None:
    while pipe.log.dropped == 0:
        for _ in range(100):
            pipe.log.write('"x":"' + "x" * 1000 + '"')
        pipe.reactor.settle()
    assert pipe.log.dropped == 100
    assert len(pipe.read()) * 1000 < HELD  # a pipe's worth; the rest is kept for the next write
    pipe.log.write('"event":"last"')
    assert len(pipe.read()) > 0


async def test_what_the_pipe_had_no_room_for_goes_out_without_another_line(pipe: Pipe) -> None:
    text = '"line":"' + "x" * (HELD // 3) + '"'  # more than a pipe takes
    pipe.log.write(text)
    assert pipe.read() != [text + "}"]
    for _ in range(20):
        pipe.reactor.timers.turn(pipe.reactor.timers.now + 0.1)
    assert "".join(pipe.read()).endswith('x"}')

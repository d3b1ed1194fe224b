"""Misbehaviour on demand does exactly what was asked, byte by byte."""

from __future__ import annotations

import pytest
import trio

from lbproxy.demo import faults
from lbproxy.demo.exchange import Request
from lbproxy.demo.faults import Ending, Fault
from lbproxy.demo.probes import pattern
from lbproxy.demo.server import SimulatedApiserver
from tests.demo.client import ask, until


async def raw(server: SimulatedApiserver, query: str) -> tuple[bytes, bool]:
    """Everything that comes back for `/fault?query`, and whether an RST ended it."""
    stream = await trio.open_tcp_stream(*server.address)
    received = b""
    async with stream:
        await stream.send_all(f"GET /fault?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with trio.fail_after(5):
            try:
                async for data in stream:
                    received += data
            except trio.BrokenResourceError:
                return received, True
    return received, False


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_the_connection_ends_in_the_middle_of_the_body(
    server: SimulatedApiserver, framing: str, end: str
) -> None:
    answer, reset = await raw(server, f"size=100&stop=40&framing={framing}&end={end}")
    assert reset == (end == "rst")
    body = body_of(answer)
    assert body == (b"28\r\n%s\r\n" % pattern(40) if framing == "chunked" else pattern(40))


@pytest.mark.parametrize("end", ["fin", "rst"])
async def test_before_any_byte_and_after_the_head(server: SimulatedApiserver, end: str) -> None:
    assert await raw(server, f"stop=before&end={end}") == (b"", end == "rst")
    answer, reset = await raw(server, f"stop=head&size=9&end={end}")
    assert answer.endswith(b"Content-Length: 9\r\n\r\n")
    assert reset == (end == "rst")


async def test_a_whole_answer_in_every_framing(server: SimulatedApiserver) -> None:
    for framing in ("length", "chunked", "close"):
        answer = await ask(server.address, "GET", f"/fault?size=70000&framing={framing}&status=201")
        assert (answer.code, answer.body) == (201, pattern(70000))


async def test_a_byte_at_a_time(server: SimulatedApiserver) -> None:
    answer, _ = await raw(server, "size=3&framing=chunked&pace=0")
    assert body_of(answer) == b"1\r\n\x00\r\n1\r\n\x07\r\n1\r\n\x0e\r\n0\r\n\r\n"


async def test_an_interim_answer_trailers_and_http_1_0(server: SimulatedApiserver) -> None:
    answer, _ = await raw(server, "interim=103&size=1")
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </demo>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n")
    answer, _ = await raw(server, "framing=chunked&trailers=1&size=1")
    assert answer.endswith(b"0\r\nX-Demo-Checksum: 0123\r\nX-Demo-Last: yes\r\n\r\n")
    answer, _ = await raw(server, "http=1.0&framing=close&size=1")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")


async def test_a_delay_before_the_head(server: SimulatedApiserver) -> None:
    began = trio.current_time()
    await raw(server, "delay=0.2&size=1")
    assert trio.current_time() - began >= 0.2


async def test_silence(server: SimulatedApiserver) -> None:
    stream = await trio.open_tcp_stream(*server.address)
    async with stream:
        await stream.send_all(b"GET /fault?stop=head&end=hang HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        with trio.move_on_after(0.1) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
    await until(lambda: not server.connections)


@pytest.mark.parametrize("query", ["framing=odd", "stop=later", "delay=soon", "size=-"])
async def test_nonsense_is_refused(server: SimulatedApiserver, query: str) -> None:
    assert (await ask(server.address, "GET", f"/fault?{query}")).code == 400


async def test_a_script_chooses_which_requests_suffer(server: SimulatedApiserver) -> None:
    """A refusal for the first watch only, as a terminating apiserver would give it."""
    refusals = [faults.status(503, b"{}", retry_after=1)]

    def script(request: Request) -> Fault | None:
        return refusals.pop() if request.flag("watch") and refusals else None

    server.fault = script
    watch = "/api/v1/pods?watch=1&timeoutSeconds=0.01"
    assert (await ask(server.address, "GET", "/api/v1/pods")).code == 200
    refused = await ask(server.address, "GET", watch)
    assert (refused.code, refused.headers["retry-after"]) == (503, "1")
    assert (await ask(server.address, "GET", watch)).code == 200
    assert [seen.code for seen in server.seen] == [200, 503, 200]


async def test_executed_and_then_reset_is_counted(server: SimulatedApiserver) -> None:
    server.fault = lambda request: Fault(stop=-1, end=Ending.RST)
    with pytest.raises(trio.BrokenResourceError):
        await ask(server.address, "POST", "/api/v1/namespaces", {"metadata": {"name": "x"}})
    assert server.counts == {"POST namespaces": 1}

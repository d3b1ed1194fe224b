"""Logs, exec and other upgrades."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.demo import life, websocket
from lbproxy.demo.server import SimulatedApiserver
from lbproxy.demo.store import Store
from lbproxy.demo.websocket import Frame, FrameReader, Opcode, accept_key, frame
from tests.demo.client import Client, ask, connected, until

POD = "/api/v1/namespaces/default/pods/web-1"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture
def store() -> Store:
    made = Store()
    life.furnish(made)
    return made


class Tunnel:
    """What is behind a 101: raw bytes, beginning with those that came along with the head."""

    def __init__(self, client: Client) -> None:
        self.stream = client.stream
        self.buffer = bytes(client.http.trailing_data[0])

    async def read(self, size: int) -> bytes:
        with trio.fail_after(5):
            while len(self.buffer) < size:
                data = await self.stream.receive_some()
                assert data, f"ended after {self.buffer!r}"
                self.buffer += data
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    async def rest(self) -> bytes:
        with trio.fail_after(5):
            while data := await self.stream.receive_some():
                self.buffer += data
        return self.buffer


@asynccontextmanager
async def upgraded(server: SimulatedApiserver, request: str, behind: bytes = b"") -> AsyncIterator[Tunnel]:
    async with connected(server.address) as client:
        await client.stream.send_all(request.replace("\n", "\r\n").encode() + b"\r\n\r\n" + behind)
        # h11 did not see the request that was written by hand; tell it of one like it, so that it expects a 101.
        offer = [("Host", "x"), ("Connection", "Upgrade"), ("Upgrade", "any")]
        client.http.send(h11.Request(method="GET", target="/", headers=offer))
        client.http.send(h11.EndOfMessage())
        head = await client.head()
        assert head.code == 101, head
        assert head.headers["x-demo-apiserver"] == "a"
        yield Tunnel(client)


async def test_a_log_follows_until_the_reader_leaves(
    server: SimulatedApiserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbproxy.demo.streams.LOG_INTERVAL", 0.01)
    lines = (await ask(server.address, "GET", f"{POD}/log?tailLines=2")).body.splitlines()
    assert [line.rpartition(b": ")[2] for line in lines] == [b"line 0", b"line 1"]
    async with connected(server.address) as client:
        await client.open_watch(f"{POD}/log?follow=true")
        text = b""
        with trio.fail_after(5):
            while text.count(b"\n") < 8:
                text += await client.data() or b""
    await until(lambda: not server.connections)


@pytest.mark.parametrize("token", ["SPDY/3.1", "anything/1"])
async def test_any_token_is_echoed_with_what_came_behind_the_head(server: SimulatedApiserver, token: str) -> None:
    request = f"POST {POD}/exec?command=x HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: {token}"
    async with upgraded(server, request, b"early") as tunnel:
        assert await tunnel.read(5) == b"early"
        await tunnel.stream.send_all(b"later")
        assert await tunnel.read(5) == b"later"
        assert isinstance(tunnel.stream, trio.SocketStream)
        await tunnel.stream.send_eof()
        assert await tunnel.rest() == b""


async def test_port_forward_and_the_plain_endpoint(server: SimulatedApiserver) -> None:
    for target in (f"{POD}/portforward", "/upgrade"):
        request = f"GET {target} HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: raw"
        async with upgraded(server, request) as tunnel:
            await tunnel.stream.send_all(b"x" * 300_000)
            assert await tunnel.read(300_000) == b"x" * 300_000


async def test_no_upgrade_header_and_no_pod_are_normal_answers(server: SimulatedApiserver) -> None:
    async with connected(server.address) as client:
        assert (await client.ask("POST", f"{POD}/exec")).code == 400
        assert (await client.ask("GET", "/api/v1/namespaces/default/pods/none/exec")).code == 404
        assert (await client.ask("GET", "/livez")).code == 200


def exec_request(query: str) -> str:
    return (
        f"GET {POD}/exec?{query} HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n"
        f"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: {KEY}\nSec-WebSocket-Protocol: v5.channel.k8s.io"
    )


async def frames(tunnel: Tunnel) -> list[Frame]:
    reader = FrameReader()
    return list(reader.feed(await tunnel.rest()))


async def test_a_command_without_input_prints_and_succeeds(server: SimulatedApiserver) -> None:
    async with upgraded(server, exec_request("command=ls&command=-l")) as tunnel:
        out, status, close = await frames(tunnel)
    assert out == Frame(Opcode.BINARY, b"\x01a: ls -l\n")
    assert status.payload[:1] == b"\x03"
    assert json.loads(status.payload[1:])["status"] == "Success"
    assert close == Frame(Opcode.CLOSE, b"\x03\xe8")


async def test_a_command_with_input_echoes_it_until_that_is_closed(server: SimulatedApiserver) -> None:
    sent = masked(Opcode.BINARY, b"\x00hello") + masked(Opcode.PING, b"p") + masked(Opcode.BINARY, b"\xff\x00")
    async with upgraded(server, exec_request("command=cat&stdin=true"), sent) as tunnel:
        _, echoed, pong, status, close = await frames(tunnel)
    assert echoed == Frame(Opcode.BINARY, b"\x01hello")
    assert pong == Frame(Opcode.PONG, b"p")
    assert status.payload[:1] == b"\x03"
    assert close.opcode == Opcode.CLOSE


def masked(opcode: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    plain = frame(opcode, payload)
    start = len(plain) - len(payload)
    hidden = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return plain[:1] + bytes([plain[1] | 0x80]) + plain[2:start] + mask + hidden


@given(st.lists(st.tuples(st.sampled_from([1, 2, 9]), st.binary(max_size=300)), max_size=5), st.integers(1, 50))
def test_frames_are_read_whatever_the_pieces(messages: list[tuple[int, bytes]], step: int) -> None:
    wire = b"".join(masked(opcode, payload) for opcode, payload in messages)
    reader = FrameReader()
    found = [piece for at in range(0, len(wire), step) for piece in reader.feed(wire[at : at + step])]
    assert found == [Frame(opcode, payload) for opcode, payload in messages]


@pytest.mark.parametrize("size", [125, 126, 65535, 65536])
def test_lengths_at_the_edges(size: int) -> None:
    assert list(FrameReader().feed(masked(2, b"x" * size))) == [Frame(2, b"x" * size)]


def test_a_frame_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        list(FrameReader().feed(b"\x82\x7f" + (websocket.MAX_FRAME + 1).to_bytes(8)))


def test_the_accept_key_of_rfc_6455() -> None:
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

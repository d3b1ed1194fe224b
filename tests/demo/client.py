"""A small HTTP client for the tests: h11 over one trio stream, nothing hidden."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import trio

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1024 * 1024)

    async def next(self) -> Any:
        """The next h11 event. Raises `h11.RemoteProtocolError` where the answer is cut off."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(bytes(await self.stream.receive_some(65536)))

    async def send(self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        lines = {"Host": "test", **(headers or {})}
        if body:
            lines["Content-Length"] = str(len(body))
        data = self.http.send(h11.Request(method=method, target=target, headers=list(lines.items()))) or b""
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        await self.stream.send_all(data + (self.http.send(h11.EndOfMessage()) or b""))

    async def head(self) -> Answer:
        """The head of the answer, without its body."""
        response = await self.next()
        while isinstance(response, h11.InformationalResponse) and response.status_code != 101:
            response = await self.next()
        assert isinstance(response, h11.Response | h11.InformationalResponse), response
        headers = {name.decode().lower(): value.decode() for name, value in response.headers}
        return Answer(response.status_code, headers, b"")

    async def answer(self) -> Answer:
        head = await self.head()
        body = b"".join([bytes(data) async for data in self.data()])
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return Answer(head.code, head.headers, body)

    async def data(self) -> AsyncIterator[bytes]:
        while not isinstance(event := await self.next(), h11.EndOfMessage):
            yield event.data

    async def ask(self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        await self.send(method, target, raw, headers)
        return await self.answer()

    async def watch(self, target: str, headers: dict[str, str] | None = None) -> AsyncIterator[Any]:
        """Events of a watch until it ends; raises where it does not end properly."""
        await self.send("GET", target, headers=headers)
        head = await self.head()
        assert head.code == 200, head
        buffer = b""
        async for data in self.data():
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
        assert not buffer


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Client]:
    with trio.fail_after(10):
        stream = await trio.open_tcp_stream(*address)
    async with stream:
        yield Client(stream)


async def ask(
    address: Address, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    async with connected(address) as client:
        with trio.fail_after(10):
            return await client.ask(method, target, body, headers)

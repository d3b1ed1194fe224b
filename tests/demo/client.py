"""A small HTTP client for the tests: h11 over one trio stream, nothing hidden."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
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
        self.buffer = b""

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
        body = b""
        while (data := await self.data()) is not None:
            body += data
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return Answer(head.code, head.headers, body)

    async def answer_to_foreign_request(self) -> Answer:
        """The answer to a request that the test wrote to the stream by hand."""
        self.http.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
        self.http.send(h11.EndOfMessage())
        with trio.fail_after(10):
            return await self.answer()

    async def data(self) -> bytes | None:
        """The next piece of the answer's body, None at its proper end. Raises `h11.RemoteProtocolError` at others."""
        event = await self.next()
        return None if isinstance(event, h11.EndOfMessage) else bytes(event.data)

    async def ask(self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        await self.send(method, target, raw, headers)
        return await self.answer()

    async def open_watch(self, target: str, headers: dict[str, str] | None = None) -> Answer:
        await self.send("GET", target, headers=headers)
        head = await self.head()
        assert head.code == 200, head
        return head

    async def event(self) -> Any:
        """The next event of an open watch, None at its proper end."""
        while b"\n" not in self.buffer:
            data = await self.data()
            if data is None:
                assert not self.buffer, "ended in the middle of an event"
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    async def events(self, count: int | None = None) -> list[Any]:
        """The next `count` events, or all until the end, within 10 seconds."""
        found: list[Any] = []
        with trio.fail_after(10):
            while len(found) != count and (event := await self.event()) is not None:
                found.append(event)
        return found


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Client]:
    with trio.fail_after(10):
        stream = await trio.open_tcp_stream(*address)
    async with stream:
        yield Client(stream)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens without a signal. Raises `trio.TooSlowError` after 10 seconds."""
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.001)


async def ask(
    address: Address, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    async with connected(address) as client:
        with trio.fail_after(10):
            return await client.ask(method, target, body, headers)

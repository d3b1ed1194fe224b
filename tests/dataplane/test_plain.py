"""The short way of a plain request: it chooses, remembers and logs as the long way does."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from lbproxy.core.config import Algorithm, Balance
from lbproxy.core.http1 import HeaderPolicy
from lbproxy.dataplane import heads as heads_module
from lbproxy.dataplane.client import HttpConnection
from lbproxy.dataplane.heads import HeadCache
from tests.dataplane.harness import PATIENCE, Lab, read_exactly
from tests.dataplane.test_exchange import OK, answering, next_head, request


@pytest.fixture
def plain_requests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The lines of the requests that went the short way."""
    seen: list[Any] = []
    begin_plain = HttpConnection.begin_plain

    def noting(self: HttpConnection, line: Any, block: Any, forward: bytes) -> None:
        seen.append(line)
        begin_plain(self, line, block, forward)

    monkeypatch.setattr(HttpConnection, "begin_plain", noting)
    return seen


async def test_ip_hash_is_faithful_on_a_kept_connection(lab: Lab, plain_requests: list[Any]) -> None:
    backends = [await lab.backend(answering(OK.replace(b"ok", b"%02d" % number))) for number in range(3)]
    lb = await lab.balance("http", *backends, balance=Balance(Algorithm.IP_HASH))
    answers = set()
    async with await lb.connect() as client:
        for _ in range(9):
            await client.send_all(request())
            answers.add((await read_exactly(client, len(OK)))[-2:])
    assert len(plain_requests) == 8
    assert len(answers) == 1


async def test_an_exchange_that_ends_the_long_way_logs_where_its_own_backend_saw_it(
    lab: Lab, plain_requests: list[Any]
) -> None:
    first_piece_seen = trio.Event()

    async def in_pieces_the_second_time(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await stream.send_all(OK)
        await next_head(stream)
        await stream.send_all(OK[:-2])
        await first_piece_seen.wait()
        await stream.send_all(OK[-2:])
        await next_head(stream)

    lb = await lab.balance("http", await lab.backend(in_pieces_the_second_time), await lab.backend(answering(OK)))
    sources = []
    with trio.fail_after(PATIENCE):
        async with await lb.connect() as client:
            for number in range(3):
                await client.send_all(request())
                await read_exactly(client, len(OK) - 2)
                if number == 2:
                    first_piece_seen.set()
                assert await read_exactly(client, 2) == b"ok"
                sources.append((await lb.log_line())["source"])
    assert len(plain_requests) == 2
    assert sources[0] != sources[1]
    assert sources[2] == sources[0]


async def test_a_line_and_a_block_that_came_from_different_clients_make_a_plain_request(
    lab: Lab, plain_requests: list[Any]
) -> None:
    lb = await lab.balance("http", await lab.backend(answering(OK)))
    async with await lb.connect() as client:
        for target, agent in (("/a", "one"), ("/b", "two"), ("/a", "two"), ("/a", "two")):
            await client.send_all(request(target, f"User-Agent: {agent}"))
            assert await read_exactly(client, len(OK)) == OK
    assert [line.target for line in plain_requests] == [b"/a"]


# -- heads that are remembered -----------------------------------------------------------------------------------


def cache() -> HeadCache:
    return HeadCache(HeaderPolicy(), frozenset({"GET"}))


def keep(heads: HeadCache, target: str, agent: str) -> None:
    head = request(target, f"User-Agent: {agent}")
    eol = head.index(b"\r\n")
    line = heads.line(head[:eol])
    heads.remember(head, len(head), line, heads.block(line, head[eol + 2 : -4]))


def test_whole_heads_are_bounded_and_do_not_push_out_lines_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_module, "MAX_ENTRIES", 40)
    heads = cache()
    for target in range(10):
        for agent in range(10):
            keep(heads, f"/{target}", str(agent))
            assert len(heads.plain) <= 40
    assert (len(heads.lines), len(heads.blocks)) == (10, 10)


def test_a_head_that_is_known_is_counted_once() -> None:
    heads = cache()
    for _ in range(3):
        keep(heads, "/", "one")
    assert heads._plain_bytes == kept_bytes(heads)


def kept_bytes(heads: HeadCache) -> int:
    return sum(len(head) + len(forward) for head, (_line, _block, forward) in heads.plain.items())


def test_whole_heads_are_bounded_by_bytes() -> None:
    heads = cache()
    for number in range(2 * heads_module.MAX_BYTES // 4000):
        keep(heads, f"/{number}", "a" * 3900)
        assert kept_bytes(heads) <= heads_module.MAX_BYTES

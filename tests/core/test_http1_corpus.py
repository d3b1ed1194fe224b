"""Heads as real clients and apiservers sent them (http1_corpus/), read by the framing parser and by h11: alike.

Then the same heads, changed a little: what lbproxy accepts, h11 reads in the same way.
"""

from __future__ import annotations

from pathlib import Path

import h11
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lbproxy.core.config import Http
from lbproxy.core.http1 import CHUNKED, BadMessageError, parse_request_line
from lbproxy.core.kubernetes import stream_kind
from lbproxy.dataplane.heads import HeadCache, Heads
from tests.core.test_http1_h11 import (
    body_length,
    framing,
    h11_request,
    h11_response,
    our_response,
    ours,
    spiced,
    tokens,
)

CORPUS = Path(__file__).parent / "http1_corpus"
CLIENTS = ("kubectl", "kubectl-1.20", "client-go", "kubernetes", "kr8s", "lightkube", "httpx", "urllib", "curl")


def recorded(kind: str) -> list[tuple[str, bytes]]:
    """(client, head without its CRLF CRLF) of all heads of a kind."""
    return [
        (client, head)
        for client in CLIENTS
        for head in (CORPUS / f"{client}-{kind}.http").read_bytes().split(b"\r\n\r\n")[:-1]
    ]


REQUESTS, RESPONSES = recorded("requests"), recorded("responses")


def test_there_is_enough_of_everything() -> None:
    """A corpus that has lost a file, or its line ends, would pass all the rest."""
    assert {client for client, _head in REQUESTS} == {client for client, _head in RESPONSES} == set(CLIENTS)
    requests = b"\n".join(head for _client, head in REQUESTS)
    methods = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ", b"HTTP/1.0", b"chunked")
    kubernetes = (b"watch=", b"/leases/", b"resourceVersion=", b"as=Table", b"application/vnd.kubernetes.protobuf")
    for wanted in (*methods, *kubernetes):
        assert wanted in requests, wanted
    statuses = {head.split()[1] for _client, head in RESPONSES}
    assert {b"200", b"201", b"404"} <= statuses
    assert any(b"chunked" in head for _client, head in RESPONSES)


@pytest.mark.parametrize(("client", "head"), REQUESTS)
def test_requests(client: str, head: bytes) -> None:
    accepted, request = ours(head), h11_request(head)
    assert accepted is not None
    assert request is not None
    line, block = accepted
    assert (line.method.encode(), line.target) == (request.method, request.target)
    assert b"1.%d" % line.minor == request.http_version
    assert block.length == framing(request)
    assert block.close is (b"close" in tokens(request.headers.raw_items(), b"connection"))
    forward = h11_request(line.forward + block.forward + b"192.0.2.1")
    assert forward is not None
    kept = [
        item for item in request.headers.raw_items() if item[0].lower() not in (b"connection", b"te", b"keep-alive")
    ]
    assert forward.headers.raw_items()[: len(kept)] == kept


@pytest.mark.parametrize(("client", "head"), RESPONSES)
def test_responses(client: str, head: bytes) -> None:
    parsed, response = our_response(head), h11_response(head)
    assert parsed is not None
    assert response is not None
    assert (parsed.status, b"1.%d" % parsed.minor) == (response.status_code, response.http_version)
    if isinstance(response, h11.Response):
        assert body_length(parsed, b"GET") == framing(response)


def test_watches_are_recognised() -> None:
    watches = [head for client, head in REQUESTS if b"watch=" in head.split(b"\r\n")[0]]
    assert len(watches) > 10
    for head in watches:
        assert stream_kind(head.split()[1]) == "watch"


heads = st.sampled_from([head for _client, head in REQUESTS])


@st.composite
def spliced(draw: st.DrawFn) -> bytes:
    """Lines of one request in another."""
    lines, others = draw(heads).split(b"\r\n"), draw(heads).split(b"\r\n")
    at = draw(st.integers(0, len(lines)))
    return b"\r\n".join([*lines[:at], *others[draw(st.integers(0, len(others))) :], *lines[at:]])


@given(spiced(heads | spliced()))
@settings(max_examples=1000)
def test_changed_requests_that_are_accepted_h11_reads_alike(head: bytes) -> None:
    accepted = ours(head)
    event("accepted" if accepted else "refused")
    if accepted is None:
        return
    line, block = accepted
    request = h11_request(head)
    assert request is not None, "h11 refuses it"
    assert (line.method.encode(), b"1.%d" % line.minor) == (request.method, request.http_version)
    assert block.length == framing(request)
    if line.host is None:
        assert line.target == request.target


@given(spiced(st.sampled_from([head for _client, head in RESPONSES])))
@settings(max_examples=800)
def test_changed_responses_that_both_accept_are_framed_alike(head: bytes) -> None:
    if b"\r\n\r\n" in head:
        return
    parsed, response = our_response(head), h11_response(head)
    event(f"ours {parsed is not None}, h11 {response is not None}")
    if parsed is not None and isinstance(response, h11.Response):
        assert parsed.status == response.status_code
        assert framing(response) == body_length(parsed, b"GET")


def cache() -> HeadCache:
    return Heads(Http(), "", frozenset({"GET", "HEAD", "OPTIONS"})).for_client("192.0.2.1")


def read(heads: HeadCache, head: bytes) -> tuple[object, object] | None:
    first, _, block = head.partition(b"\r\n")
    try:
        line = heads.line(first)
        known = heads.blocks.get(block) if line.minor and line.host is None else None
        found = line, known or heads.block(line, block)
    except BadMessageError:
        return None
    heads.remember(head + b"\r\n\r\n", len(head) + 4, *found)
    return found


@given(st.lists(spiced(heads), max_size=10))
@settings(max_examples=200)
def test_what_is_remembered_is_what_is_read(some: list[bytes]) -> None:
    """Whatever came before, in the same cache."""
    shared = cache()
    for head in some + some:
        assert read(shared, head) == read(cache(), head)
        plain = shared.plain.get(head + b"\r\n\r\n")
        if plain is not None:
            line, block, forward = plain
            assert (line, block) == read(cache(), head)
            assert forward == line.forward + block.forward
            assert not plain[0].long_stream
            assert plain[1].length == 0


def test_request_bodies_of_unknown_length_are_there() -> None:
    assert any((found := ours(head)) is not None and found[1].length == CHUNKED for _client, head in REQUESTS)
    assert all(parse_request_line(head.split(b"\r\n")[0]) for _client, head in REQUESTS)

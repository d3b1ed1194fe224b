"""Request heads, by table: what is refused and why, what is forwarded, how long the body is."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from lbproxy.core.config import ForwardedFor
from lbproxy.core.http1 import (
    CHUNKED,
    BadMessageError,
    HeaderPolicy,
    RequestBlock,
    RequestLine,
    parse_request_block,
    parse_request_line,
)

POLICY = HeaderPolicy()


def parse(head: bytes, policy: HeaderPolicy = POLICY) -> tuple[RequestLine, RequestBlock]:
    """A whole head, cut as an exchange cuts it: at the first CRLF CRLF and the first CRLF."""
    head = head[: head.index(b"\r\n\r\n")]
    first, _, block = head.partition(b"\r\n")
    line = parse_request_line(first)
    return line, parse_request_block(block, line.minor, policy, line.host)


def forwarded(head: bytes, policy: HeaderPolicy = POLICY) -> list[bytes]:
    """The lines that go to the backend, with the client's address as 192.0.2.1."""
    line, block = parse(head, policy)
    address = b"" if policy.forwarded_for is ForwardedFor.OFF else b"192.0.2.1"
    return (line.forward + block.forward + address).split(b"\r\n")


# -- request lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "method", "target", "minor"),
    [
        (b"GET / HTTP/1.1", "GET", b"/", 1),
        (b"GET / HTTP/1.0", "GET", b"/", 0),
        (b"PATCH /api/v1/pods?watch=1&x=%2F%2f HTTP/1.1", "PATCH", b"/api/v1/pods?watch=1&x=%2F%2f", 1),
        (b"GET //a/../b/./c;d?e#f HTTP/1.1", "GET", b"//a/../b/./c;d?e#f", 1),
        (b'M-SEARCH /{}|\\^`" HTTP/1.1', "M-SEARCH", b'/{}|\\^`"', 1),
        (b"get / HTTP/1.1", "get", b"/", 1),
        (b"OPTIONS * HTTP/1.1", "OPTIONS", b"*", 1),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1", "GET", b"/" + b"x" * 100_000, 1),
    ],
)
def test_request_lines_go_on_byte_for_byte(line: bytes, method: str, target: bytes, minor: int) -> None:
    parsed = parse_request_line(line)
    assert (parsed.method, parsed.target, parsed.minor, parsed.host) == (method, target, minor, None)
    assert parsed.forward == line[:-1] + b"1\r\n"


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET http://a.example/b?c HTTP/1.1", b"/b?c", b"a.example"),
        (b"GET http://a.example HTTP/1.1", b"/", b"a.example"),
        (b"GET http://a.example?b HTTP/1.1", b"/?b", b"a.example"),
        (b"GET HTTPS://a.example:6443/b HTTP/1.1", b"/b", b"a.example:6443"),
        (b"GET http://[fd00::1]:80/ HTTP/1.1", b"/", b"[fd00::1]:80"),
        (b"GET http://a/http://b/ HTTP/1.1", b"/http://b/", b"a"),
    ],
)
def test_a_target_in_absolute_form_becomes_a_path_and_a_host(line: bytes, target: bytes, host: bytes) -> None:
    """RFC 9112, 3.2.2."""
    parsed = parse_request_line(line)
    assert (parsed.target, parsed.host) == (target, host)
    assert parsed.forward == b"GET " + target + b" HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"", 400),
        (b"GET", 400),
        (b"GET /", 400),  # HTTP/0.9
        (b"GET / ", 400),
        (b" GET / HTTP/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET\t/\tHTTP/1.1", 400),
        (b"GET / x HTTP/1.1", 400),
        (b"GET /\xc3\xa4 HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400),
        (b"GET /\x0b HTTP/1.1", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r", 400),
        (b"GET / HTTP/1.1\nX: y", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/1,1", 400),
        (b"GET / HTTP/01.1", 505),
        (b"GET / HTTP/1.1x", 400),
        (b"GET / HTTP/1.10", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/2.0", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"G@T / HTTP/1.1", 400),
        (b"GET: / HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"CONNECT a.example:443 HTTP/1.1", 405),
        (b"CONNECT /path HTTP/1.1", 405),
        (b"GET a.example:443 HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET api/v1 HTTP/1.1", 400),
        (b"GET ?watch=1 HTTP/1.1", 400),
        (b"GET ftp://a/ HTTP/1.1", 400),
        (b"GET http:// HTTP/1.1", 400),
        (b"GET http:///a HTTP/1.1", 400),
        (b"GET http://user@a/ HTTP/1.1", 400),
        (b'GET http://a"b/ HTTP/1.1', 400),
        (b"GET http://a/#f HTTP/1.1", 400),
        (b"GET http:a HTTP/1.1", 400),
    ],
)
def test_request_lines_that_are_refused(line: bytes, status: int) -> None:
    with pytest.raises(BadMessageError) as caught:
        parse_request_line(line)
    assert caught.value.status == status


# -- smuggling -------------------------------------------------------------------------------------------------

SMUGGLING: list[tuple[str, bytes, int]] = [
    ("TE and CL", b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    ("CL and TE", b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
    ("TE and CL 0", b"Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
    ("TE and a broken CL", b"Transfer-Encoding: chunked\r\nContent-Length: x", 400),
    ("two lengths", b"Content-Length: 5\r\nContent-Length: 6", 400),
    ("two equal lengths", b"Content-Length: 5\r\nContent-Length: 5", 400),
    ("two lengths, cases", b"content-length: 5\r\nCONTENT-LENGTH: 6", 400),
    ("length list", b"Content-Length: 5,5", 400),
    ("length list of two", b"Content-Length: 5, 6", 400),
    ("length with plus", b"Content-Length: +5", 400),
    ("length with minus", b"Content-Length: -5", 400),
    ("hex length", b"Content-Length: 0x5", 400),
    ("length with underscore", b"Content-Length: 1_0", 400),
    ("length with a blank", b"Content-Length: 1 0", 400),
    ("length in other digits", "Content-Length: \u0665".encode(), 400),
    ("length as float", b"Content-Length: 5.0", 400),
    ("empty length", b"Content-Length:", 400),
    ("quoted length", b'Content-Length: "5"', 400),
    ("length of 19 digits", b"Content-Length: 1000000000000000000", 400),
    ("length of 2**64 + 5", b"Content-Length: 18446744073709551621", 400),
    ("chunked twice", b"Transfer-Encoding: chunked, chunked", 501),
    ("chunked in two lines", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
    ("identity, then chunked", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 501),
    ("chunked, identity", b"Transfer-Encoding: chunked, identity", 501),
    ("identity, chunked", b"Transfer-Encoding: identity, chunked", 501),
    ("identity", b"Transfer-Encoding: identity", 501),
    ("gzip, chunked", b"Transfer-Encoding: gzip, chunked", 501),
    ("empty coding", b"Transfer-Encoding:", 501),
    ("xchunked", b"Transfer-Encoding: xchunked", 501),
    ("quoted chunked", b'Transfer-Encoding: "chunked"', 501),
    ("chunked with a parameter", b"Transfer-Encoding: chunked;q=1", 501),
    ("comma and chunked", b"Transfer-Encoding: , chunked", 501),
    ("vertical tab and chunked", b"Transfer-Encoding: \x0bchunked", 400),
    ("non-breaking blank", b"Transfer-Encoding: chunked\xa0", 501),
    ("blank before the colon", b"Transfer-Encoding : chunked", 400),
    ("tab before the colon", b"Content-Length\t: 5", 400),
    ("blank before the name", b" Transfer-Encoding: chunked", 400),
    ("fold of the first line", b"\tfolded", 400),
    ("fold", b"X: y\r\n folded", 400),
    ("fold that hides a length", b"X: y\r\n Content-Length: 5", 400),
    ("folded coding", b"Transfer-Encoding:\r\n chunked", 400),
    ("bare LF", b"X: y\nContent-Length: 5", 400),
    ("bare LF in a name", b"X\nContent-Length: 5", 400),
    ("bare CR", b"X: y\rContent-Length: 5", 400),
    ("CR before CRLF", b"X: y\r\r\nContent-Length: 5", 400),
    ("NUL in a value", b"X: a\x00b", 400),
    ("NUL in a name", b"X\x00: a", 400),
    ("control character", b"X: a\x01b", 400),
    ("escape character", b"X: \x1b[31m", 400),
    ("DEL", b"X: a\x7fb", 400),
    ("form feed", b"X: a\x0c", 400),
    ("no colon", b"X", 400),
    ("no name", b": x", 400),
    ("blank in a name", b"X Y: z", 400),
    ("brackets in a name", b"X[0]: z", 400),
    ("a name beyond ASCII", b"X\xe9: z", 400),
    ("Kelvin sign in a name", "To\u212aen: z".encode(), 400),
    ("another Host", b"Host: b.example", 400),
    ("another Host, empty", b"host:", 400),
    ("nominated length", b"Content-Length: 5\r\nConnection: Content-Length", 400),
    ("nominated coding", b"Transfer-Encoding: chunked\r\nConnection: close, transfer-encoding", 400),
    ("nominated Host", b"Connection: host", 400),
    ("nominated credentials", b"Authorization: Bearer x\r\nConnection: authorization", 400),
    ("nominated addresses", b"Connection: x-forwarded-for", 400),
]


@pytest.mark.parametrize(("block", "status"), [row[1:] for row in SMUGGLING], ids=[row[0] for row in SMUGGLING])
@pytest.mark.parametrize("where", ["before Host", "after Host"])
def test_smuggling_shapes_are_refused(block: bytes, status: int, where: str) -> None:
    host = b"Host: a.example"
    lines = [host, block] if where == "after Host" else [block, host]
    with pytest.raises(BadMessageError) as caught:
        parse(b"POST / HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
    assert caught.value.status == status


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n\r\n",  # RFC 9112, 3.2: not even then
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\xe9\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: identity\r\n\r\n",
    ],
)
def test_heads_that_are_refused(head: bytes) -> None:
    with pytest.raises(BadMessageError) as caught:
        parse(head)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (b"X: y", 0),
        (b"Content-Length: 0", 0),
        (b"Content-Length: 5", 5),
        (b"Content-Length:5", 5),
        (b"Content-Length: \t 5 \t", 5),
        (b"CONTENT-LENGTH: 005", 5),
        (b"Content-Length: 999999999999999999", 10**18 - 1),
        (b"Transfer-Encoding: chunked", CHUNKED),
        (b"transfer-encoding:\tCHUNKED ", CHUNKED),
        (b"Transfer_Encoding: chunked", 0),  # another header, which no apiserver knows
        (b"X: Transfer-Encoding: chunked", 0),
    ],
)
def test_request_lengths(lines: bytes, length: int) -> None:
    assert parse(b"POST / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n")[1].length == length


# -- what is forwarded -----------------------------------------------------------------------------------------


def test_lines_keep_order_repeats_and_spelling() -> None:
    lines = [
        b"hOsT:  a.example \t",
        b"X-Stream-Protocol-Version: v4.channel.k8s.io",
        b"Accept:\tapplication/json;as=Table",
        b"X-Stream-Protocol-Version: v3.channel.k8s.io",
        b"X-Empty:",
        b"X-High: \xe9\xff",
        b"Expect: 100-continue",
        b"Content-Length: 7",
    ]
    head = b"PUT /a HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
    assert forwarded(head) == [
        b"PUT /a HTTP/1.1",
        *lines,
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a.example",
        b"X-Forwarded-For: 192.0.2.1",
    ]


ADDED = [b"X-Forwarded-Proto: http", b"X-Forwarded-Host: a", b"X-Forwarded-For: 192.0.2.1"]


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive"], []),
        ([b"TE: gzip"], []),
        ([b"TE: trailers, deflate;q=0.5"], [b"TE: trailers"]),
        ([b"Connection: X-A, close", b"X-A: 1", b"x-a: 2", b"X-B: 3"], [b"X-B: 3"]),
        ([b"X-A: 1", b"Connection: x-b", b"Connection: x-a", b"X-B: 3"], []),
        ([b"Connection: ,, ,"], []),
        ([b"Upgrade: h2c"], []),  # not meant for us without Connection: upgrade
        ([b"Connection: Upgrade"], []),
        (
            [b"Connection: keep-alive, Upgrade", b"Upgrade: SPDY/3.1"],
            [b"Upgrade: SPDY/3.1", b"Connection: Upgrade"],
        ),
        ([b"upgrade: websocket", b"connection: upgrade"], [b"upgrade: websocket", b"Connection: Upgrade"]),
        ([b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil"], []),
    ],
)
def test_lines_of_this_hop_end_here(lines: list[bytes], kept: list[bytes]) -> None:
    head = b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines, b"", b""])
    assert forwarded(head) == [b"GET / HTTP/1.1", b"Host: a", *kept, *ADDED]


@pytest.mark.parametrize(
    ("version", "lines", "close", "keep_alive", "upgrade"),
    [
        (b"1.1", b"X: y", False, False, False),
        (b"1.1", b"Connection: close", True, False, False),
        (b"1.1", b"Connection: Keep-Alive , CLOSE", True, True, False),
        (b"1.0", b"Connection: keep-alive", False, True, False),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: SPDY/3.1", False, False, True),
        (b"1.0", b"Connection: upgrade\r\nUpgrade: SPDY/3.1", False, False, False),
        (b"1.1", b"Connection: upgraded\r\nUpgrade: x", False, False, False),
        (b"1.1", b"Connection: x-close", False, False, False),
    ],
)
def test_connection_tokens(version: bytes, lines: bytes, close: bool, keep_alive: bool, upgrade: bool) -> None:
    _line, block = parse(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + lines + b"\r\n\r\n")
    assert (block.close, block.keep_alive, block.upgrade) == (close, keep_alive, upgrade)


FORWARDED = (
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n"
    b"X-Forwarded-Host: b\r\nX-Forwarded-For: 10.0.0.3\r\nX-Forwarded-For:\r\n\r\n"
)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            POLICY,
            [
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Host: a",
                b"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1",
            ],
        ),
        (
            replace(POLICY, forwarded_for=ForwardedFor.SET),
            [b"X-Forwarded-Proto: http", b"X-Forwarded-Host: a", b"X-Forwarded-For: 192.0.2.1"],
        ),
        (
            replace(POLICY, drop_forwarded_for=True),
            [b"X-Forwarded-Proto: http", b"X-Forwarded-Host: a", b"X-Forwarded-For: 192.0.2.1"],
        ),
        (
            replace(POLICY, forwarded_for=ForwardedFor.OFF),
            [
                b"X-Forwarded-For: 10.0.0.1, 10.0.0.2",
                b"X-Forwarded-For: 10.0.0.3",
                b"X-Forwarded-For:",
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Host: a",
            ],
        ),
        (
            replace(POLICY, keep_forwarded=True),
            [
                b"X-Forwarded-Proto: https",
                b"X-Forwarded-Host: b",
                b"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1",
            ],
        ),
        (
            replace(POLICY, proto=b"https"),
            [
                b"X-Forwarded-Proto: https",
                b"X-Forwarded-Host: a",
                b"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1",
            ],
        ),
    ],
)
def test_forwarded_headers(policy: HeaderPolicy, expected: list[bytes]) -> None:
    assert forwarded(FORWARDED, policy)[2:] == expected


@pytest.mark.parametrize(
    ("host", "head", "expected", "needs_host"),
    [
        ("preserve", b"GET / HTTP/1.1\r\nhost: a:80\r\n\r\n", b"host: a:80", False),
        ("preserve", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b"Host:", False),
        ("preserve", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", b"Host: a", False),
        ("preserve", b"GET / HTTP/1.0\r\n\r\n", None, True),
        ("preserve", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", b"Host: b", False),
        ("preserve", b"GET http://b/ HTTP/1.0\r\n\r\n", b"Host: b", False),
        ("backend", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None, True),
        ("backend", b"GET / HTTP/1.0\r\n\r\n", None, True),
        ("api.example", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"Host: api.example", False),
        ("api.example", b"GET / HTTP/1.0\r\n\r\n", b"Host: api.example", False),
        ("api.example", b"GET http://b/ HTTP/1.0\r\n\r\n", b"Host: api.example", False),
    ],
)
def test_host(host: str, head: bytes, expected: bytes | None, needs_host: bool) -> None:
    policy = replace(POLICY, host=host)
    hosts = [line for line in forwarded(head, policy) if line.lower().startswith(b"host:")]
    assert hosts == ([] if expected is None else [expected])
    assert parse(head, policy)[1].needs_host is needs_host


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"", b""), (b"x-user", b"jane"), (b"x-none", b""), (b"host", b"a")],
)
def test_key_of_the_hash(name: bytes, expected: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX-USER:  jane \r\nX-User: joe\r\n\r\n"
    assert parse(head, replace(POLICY, key_header=name))[1].key == expected


@pytest.mark.parametrize(
    "value",
    [b" " * 200_000 + b"\x01", b"a" + b" " * 200_000 + b"b", b"a" + b"\t " * 100_000 + b"\x01", b"," * 200_000],
)
def test_hostile_values_take_linear_time(value: bytes) -> None:
    """200 KB of blanks: milliseconds when the time is linear, hours when it is not."""
    started = time.process_time()
    for name in (b"X", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Host"):
        try:
            parse(b"GET / HTTP/1.1\r\n" + name + b":" + value + b"\r\n\r\n")
        except BadMessageError:
            continue
    assert time.process_time() - started < 5

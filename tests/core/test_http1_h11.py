"""The framing parser against h11: whatever lbproxy accepts, h11 reads in the same way.

h11 is the referee because it is strict, and written by others. The generators lean towards what attackers send:
framing headers in odd spellings, control characters, blanks and line ends in the wrong places.
"""

from __future__ import annotations

from itertools import pairwise

import h11
from h11._connection import _body_framing  # how h11 reads a message's framing; it is not to be had otherwise
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from lbproxy.core.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    BadMessageError,
    ChunkedWalk,
    HeaderPolicy,
    RequestBlock,
    RequestLine,
    ResponseHead,
    parse_request_block,
    parse_request_line,
    parse_response_head,
    plain_response,
    response_head_to_forward,
)

Items = list[tuple[bytes, bytes]]
POLICY = HeaderPolicy()
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"}

# -- generators ------------------------------------------------------------------------------------------------

spice = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n ",
        b" ",
        b"\t",
        b"\x00",
        b"\x0b",
        b"\x7f",
        b"\x80",
        b":",
        b",",
        b";",
        b"0",
        b"5",
        b"x",
    ]
)


@st.composite
def spiced(draw: st.DrawFn, strategy: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with up to three insertions, deletions or replacements."""
    data = draw(strategy)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(data)))
        skip = draw(st.integers(0, 2))
        data = data[:at] + draw(st.one_of(spice, st.just(b""))) + data[at + skip :]
    return data


def any_case(text: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([text, text.lower(), text.upper()])


framing_names = st.sampled_from(
    [b"Content-Length", b"Transfer-Encoding", b"Connection", b"Host", b"Upgrade", b"TE", b"Keep-Alive", b"Trailer"]
).flatmap(any_case)
other_names = st.sampled_from(
    [b"Accept", b"User-Agent", b"X-A", b"X-B", b"Authorization", b"X-Forwarded-For", b"X-Forwarded-Proto", b"Expect"]
)
values = st.one_of(
    st.sampled_from(
        [b"", b"0", b"5", b"05", b"5,5", b"+5", b"chunked", b"Chunked", b"identity, chunked", b"close", b"keep-alive",
         b"upgrade", b"keep-alive, X-A", b"x-a, close,", b"SPDY/3.1", b"trailers", b"a.example:80", b"10.0.0.1"]
    ),
    st.text("abc;=\"/\u00ff 09,-", max_size=12).map(lambda text: text.encode("latin-1").strip()),
    st.binary(max_size=6),
)  # fmt: skip
colons = st.sampled_from([b": ", b": ", b": ", b":", b":\t", b" : ", b":  "])
header_lines = st.builds(
    lambda name, colon, value: name + colon + value, st.one_of(framing_names, other_names), colons, values
)
hosts = st.sampled_from([[b"Host: a.example"], [b"Host: a.example"], [b"host:a"], []])


@st.composite
def blocks(draw: st.DrawFn) -> list[bytes]:
    lines = draw(st.lists(header_lines, max_size=5))
    at = draw(st.integers(0, len(lines)))
    return lines[:at] + draw(hosts) + lines[at:]


request_lines = st.builds(
    lambda method, target, version: method + b" " + target + b" " + version,
    st.sampled_from([b"GET", b"POST", b"PUT", b"OPTIONS", b"HEAD", b"M-X", b"get", b"CONNECT"]),
    st.sampled_from(
        [b"/", b"/api/v1/pods?watch=1", b"*", b"http://b.example/x?y", b"http://b", b"a:443", b"//x", b"/%41"]
    ),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1"]),
)
request_heads = st.builds(lambda line, lines: b"\r\n".join([line, *lines]), request_lines, blocks())
# Heads that are accepted, mostly: for what is made of them.
sound_lines = st.sampled_from(
    [b"Accept: */*", b"X-A: 1", b"x-a:2", b"X-B:\t3 ", b"Connection: close", b"Connection: X-A, Upgrade",
     b"connection: keep-alive,x-b", b"Connection: te", b"Upgrade: SPDY/3.1", b"TE: trailers, gzip", b"te: gzip",
     b"Keep-Alive: 5", b"Proxy-Connection: close", b"X-Forwarded-For: 10.0.0.1", b"x-forwarded-for: 10.0.0.2, ::1",
     b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil", b"X-High: \xe9\xff", b"Trailer: X", b"Expect: x"]
)  # fmt: skip
lengths = st.sampled_from([[], [], [b"Content-Length: 5"], [b"content-length:  07 "], [b"Transfer-Encoding: chunked"]])


def with_lines(first: st.SearchStrategy[bytes], fixed: st.SearchStrategy[list[bytes]]) -> st.SearchStrategy[bytes]:
    """A head of a first line and of header lines in any order."""
    lines = st.builds(lambda some, more, most: [*some, *more, *most], fixed, lengths, st.lists(sound_lines, max_size=5))
    return st.builds(lambda line, rest: b"\r\n".join([line, *rest]), first, lines.flatmap(st.permutations))


sound_requests = with_lines(
    st.sampled_from(
        [b"GET / HTTP/1.1", b"PUT /a?b HTTP/1.1", b"GET http://b.example/x HTTP/1.1", b"OPTIONS * HTTP/1.1"]
    ),
    st.sampled_from([[b"Host: a.example"], [b"hOST:  a.example:80\t"]]),
) | with_lines(st.sampled_from([b"GET / HTTP/1.0", b"GET http://b?x HTTP/1.0"]), st.sampled_from([[], [b"Host:"]]))
status_lines = st.builds(
    lambda version, status, reason: version + b" " + status + reason,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2"]),
    st.sampled_from([b"200", b"201", b"204", b"304", b"404", b"500", b"100", b"103", b"999", b"000"]),
    st.sampled_from([b" OK", b" ", b"", b" Not \xe9\t Found"]),
)
response_heads = st.builds(
    lambda line, lines: b"\r\n".join([line, *lines]), status_lines, st.lists(header_lines, max_size=5)
)
sound_responses = with_lines(status_lines, st.just([b"Set-Cookie: a", b"Set-Cookie: b"]))


# -- the two readers -------------------------------------------------------------------------------------------


def ours(head: bytes, policy: HeaderPolicy = POLICY) -> tuple[RequestLine, RequestBlock] | None:
    """A head, up to its CRLF CRLF, cut as an exchange cuts it; None if it is refused."""
    first, _, block = head.partition(b"\r\n")
    try:
        line = parse_request_line(first)
        return line, parse_request_block(block, line.minor, policy, line.host)
    except BadMessageError:
        return None


def h11_request(head: bytes) -> h11.Request | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(head + b"\r\n\r\n")
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(request, h11.Request)
    return request


def h11_response(head: bytes, method: str = "GET") -> h11.Response | h11.InformationalResponse | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.receive_data(head + b"\r\n\r\n")
    try:
        response = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(response, h11.Response | h11.InformationalResponse)
    return response


def framing(message: h11.Request | h11.Response, method: bytes = b"GET") -> int:
    kind, arguments = _body_framing(method, message)
    return {"chunked": CHUNKED, "http/1.0": UNTIL_CLOSE}.get(kind) or sum(arguments)


def tokens(items: Items, name: bytes) -> set[bytes]:
    return {token.strip().lower() for key, value in items if key.lower() == name for token in value.split(b",")}


# -- requests --------------------------------------------------------------------------------------------------


@given(spiced(request_heads) | spiced(sound_requests))
@settings(max_examples=800)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5")
@example(b"GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b")
@example(b"GET http://b/ HTTP/1.1")
@example(b"CONNECT / HTTP/1.1\r\nHost: a")
def test_what_is_accepted_h11_reads_in_the_same_way(head: bytes) -> None:
    accepted = ours(head)
    event("accepted" if accepted else "refused")
    if accepted is None:
        return
    line, block = accepted
    request = h11_request(head)
    assert request is not None, "h11 refuses it"
    assert request.method == line.method.encode()
    assert request.http_version == b"1.%d" % line.minor
    assert framing(request) == block.length
    if line.host is None:
        assert request.target == line.target
    else:
        scheme, slashes, rest = request.target.partition(b"://")
        path = rest.removeprefix(line.host)
        assert (scheme.lower() in (b"http", b"https"), slashes, rest != path) == (True, b"://", True)
        assert line.target == (path if path[:1] == b"/" else b"/" + path)


def expected_items(request: h11.Request, host: bytes | None) -> tuple[Items, Items]:
    """What a backend is to read of a request, in order, and what is added: written down from RFC 9110, 7.6.1."""
    items = request.headers.raw_items()
    nominated = tokens(items, b"connection") - {b"close", b"keep-alive", b"upgrade"}
    names = [name.lower() for name, _value in items]
    upgrade = request.http_version == b"1.1" and b"upgrade" in tokens(items, b"connection") and b"upgrade" in names
    kept: Items = []
    addresses = [value for name, value in items if name.lower() == b"x-forwarded-for" and value]
    for name, value in items:
        match name.lower():
            case b"x-forwarded-for" | b"x-forwarded-proto" | b"x-forwarded-host":
                pass
            case b"host":
                kept.append((name, value) if host is None else (b"Host", host))
            case b"te":
                if b"trailers" in tokens([(name, value)], b"te"):
                    kept.append((b"TE", b"trailers"))
            case b"upgrade":
                if upgrade:
                    kept.append((name, value))
            case lower if lower not in HOP_BY_HOP and lower not in nominated:
                kept.append((name, value))
    if host is not None and b"host" not in names:
        kept.append((b"Host", host))
    added = [(b"Connection", b"Upgrade")] if upgrade else []
    added.append((b"X-Forwarded-Proto", b"http"))
    host_value = host if host is not None else next((value for name, value in items if name.lower() == b"host"), b"")
    if host_value:
        added.append((b"X-Forwarded-Host", host_value))
    added.append((b"X-Forwarded-For", b", ".join([*addresses, b"192.0.2.1"])))
    return kept, added


@given(sound_requests | spiced(sound_requests))
@settings(max_examples=700)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x-a\r\nUpgrade: SPDY/3.1\r\nX-A: 1\r\nTE: trailers")
@example(b"GET http://b/ HTTP/1.0\r\nX-A: 1")
def test_what_is_forwarded_is_what_h11_read_without_this_hop(head: bytes) -> None:
    accepted = ours(head)
    event("accepted" if accepted else "refused")
    if accepted is None:
        return
    line, block = accepted
    request = h11_request(head)
    assert request is not None
    missing = b"\r\nHost: backend" if block.needs_host else b""
    forward = h11_request(line.forward + block.forward + b"192.0.2.1" + missing)
    assert forward is not None, "h11 refuses what is forwarded"
    assert (forward.method, forward.target, forward.http_version) == (request.method, line.target, b"1.1")
    kept, added = expected_items(request, line.host)
    if missing:
        added.append((b"Host", b"backend"))
    assert forward.headers.raw_items() == kept + added
    assert framing(forward) == block.length


# -- responses -------------------------------------------------------------------------------------------------


def our_response(head: bytes) -> ResponseHead | None:
    try:
        return parse_response_head(head + b"\r\n\r\n", len(head))
    except BadMessageError:
        return None


def body_length(head: ResponseHead, method: bytes) -> int:
    """RFC 9112, 6.3: some responses have no body, whatever their head says."""
    return 0 if method == b"HEAD" or head.status in (204, 304) else head.length


@given(spiced(response_heads) | spiced(sound_responses), st.sampled_from([b"GET", b"HEAD", b"POST"]))
@settings(max_examples=800)
def test_responses_that_both_accept_are_framed_alike(head: bytes, method: bytes) -> None:
    """lbproxy checks less of a response than h11, but never frames one differently."""
    assume(b"\r\n\r\n" not in head)
    parsed, response = our_response(head), h11_response(head, method.decode())
    event(f"ours {parsed is not None}, h11 {response is not None}")
    if parsed is None or response is None:
        return
    assert (parsed.status, b"1.%d" % parsed.minor) == (response.status_code, response.http_version)
    if isinstance(response, h11.Response):
        assert framing(response, method) == body_length(parsed, method)


plain_lines = st.one_of(
    st.builds(lambda name, value: name + b": " + value, framing_names, values),
    st.sampled_from([b"Date: x", b"Audit-Id: 1", b"Content-Type: application/json", b"Set-Cookie: a", b"X-A: b"]),
)


@given(status_lines, st.lists(plain_lines, max_size=5))
@settings(max_examples=600)
def test_a_framing_line_that_h11_refuses_is_refused(line: bytes, lines: list[bytes]) -> None:
    head = b"\r\n".join([line, *lines])
    assume(b"\r\n\r\n" not in head + b"\r\n" and not any(set(text) & set(b"\x00\x0b\x0c\r\n") for text in lines))
    parsed = our_response(head)
    if parsed is None:
        return
    lengths = {int(value) for value in tokens([_cut(text) for text in lines], b"content-length")}
    if len(lengths) == 1 and len([text for text in lines if text.lower().startswith(b"content-length")]) > 1:
        return  # 5 and 05: h11 compares the texts
    assert h11_response(head) is not None


def _cut(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip()


@given(sound_responses | spiced(sound_responses), st.booleans(), st.sampled_from([b"", b"close", b"keep-alive"]))
@settings(max_examples=700)
def test_a_forwarded_response_is_framed_as_it_came(head: bytes, upgrade: bool, connection: bytes) -> None:
    parsed, response = our_response(head), h11_response(head)
    if b"\r\n\r\n" in head + b"\r\n" or parsed is None or not isinstance(response, h11.Response):
        return
    event("accepted")
    forward = response_head_to_forward(head + b"\r\n\r\n", chunked=True, upgrade=upgrade, connection=connection)
    read = h11_response(forward[:-4])
    assert isinstance(read, h11.Response)
    assert (read.status_code, read.http_version, read.reason) == (response.status_code, b"1.1", response.reason)
    assert framing(read) == framing(response)
    gone = HOP_BY_HOP - {b"te"} - ({b"connection", b"upgrade"} if upgrade else set())
    nominated = tokens(response.headers.raw_items(), b"connection") - {
        b"content-length", b"transfer-encoding", *({b"connection", b"upgrade"} if upgrade else ())
    }  # fmt: skip
    kept = [item for item in response.headers.raw_items() if item[0].lower() not in gone | nominated | {b"te"}]
    added = [(b"Connection", connection)] if connection else []
    assert [item for item in read.headers.raw_items() if item[0].lower() != b"te"] == kept + added


@given(st.lists(plain_lines, max_size=5), st.integers(0, 5))
def test_the_short_cut_for_keep_alive_is_the_long_way(lines: list[bytes], at: int) -> None:
    lines = [*lines[:at], b"Connection: keep-alive", *lines[at:]]
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *lines])
    parsed = our_response(head)
    # TE belongs to requests; the long way removes it all the same.
    if parsed is None or parsed.hop != 1 or b"\r\n\r\n" in head + b"\r\n" or b"\nte:" in head.lower():
        return
    event("accepted")
    whole = head + b"\r\n\r\nbody"
    short = plain_response(parsed, whole, len(whole) - 4)
    assert short == response_head_to_forward(whole[:-4], chunked=True, upgrade=False, connection=b"") + b"body"


# -- chunked bodies --------------------------------------------------------------------------------------------

sizes = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b", b'%x;a="\xff"'])
chunk = st.builds(
    lambda size, data: size % len(data) + b"\r\n" + data + b"\r\n", sizes, st.binary(min_size=1, max_size=20)
)
last_chunk = st.sampled_from([b"0\r\n", b"000\r\n", b"0;a\r\n"])
trailers = st.lists(st.sampled_from([b"X-A: b\r\n", b"X-B:c \r\n", b"Content-Length: 5\r\n", b"X\r\n"]), max_size=2)
chunked_bodies = st.builds(
    lambda chunks, last, trailer: b"".join([*chunks, last, *trailer, b"\r\n"]),
    st.lists(chunk, max_size=4),
    last_chunk,
    trailers,
)
behind = st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"0\r\n\r\n", b"\x00"])

REFUSED = -2
Walked = tuple[int, bytes]


def walk(pieces: list[bytes]) -> Walked:
    """Where the body ends in the whole of the pieces (-1: not yet, REFUSED), and its data."""
    walker, sink, before = ChunkedWalk(), list[bytes](), 0
    for piece in pieces:
        try:
            end = walker.feed(piece, 0, sink)
        except BadMessageError:
            return REFUSED, b""
        if end >= 0:
            data = b"".join(sink)
            assert walker.payload == len(data)
            return before + end, data
        before += len(piece)
    return -1, b"".join(sink)


def h11_walk(body: bytes) -> Walked:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.receive_data(head + body)
    data = b""
    try:
        while True:
            got = connection.next_event()
            if isinstance(got, h11.Data):
                data += bytes(got.data)
            elif isinstance(got, h11.EndOfMessage):
                return len(body) - len(connection.trailing_data[0]), data
            elif got is h11.NEED_DATA:
                return -1, data
    except h11.RemoteProtocolError:
        return REFUSED, b""


@given(spiced(chunked_bodies), behind)
@settings(max_examples=600)
@example(b"5 ;a\r\nhello\r\n0\r\n\r\n", b"")
@example(b"0\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"")
def test_a_chunked_body_that_is_accepted_ends_where_h11_ends_it(body: bytes, rest: bytes) -> None:
    end, data = walk([body + rest])
    event("accepted" if end >= 0 else "refused or not complete")
    if end >= 0:
        assert (end, data) == h11_walk(body + rest)


@given(chunked_bodies, behind)
def test_well_formed_bodies_are_accepted(body: bytes, rest: bytes) -> None:
    assume(b"Content-Length" not in body and b"\r\nX\r\n" not in body)
    end, data = walk([body + rest])
    assert end == len(body)
    assert (end, data) == h11_walk(body + rest)


@given(spiced(chunked_bodies), behind, st.lists(st.integers(0, 120), max_size=5))
@settings(max_examples=600)
def test_pieces_make_no_difference(body: bytes, rest: bytes, cuts: list[int]) -> None:
    whole = body + rest
    expected = walk([whole])
    assert walk([bytes([byte]) for byte in whole]) == expected
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    assert walk([whole[start:stop] for start, stop in pairwise(places)]) == expected

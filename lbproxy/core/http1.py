"""HTTP/1.1 framing, strict and fast: where a message ends, what is hop-by-hop, and nothing else.

A proxy does not need headers as data. What it forwards are the lines it got; what it must know is where the head and
the body end, and which lines concern only this hop. So a head is checked and cut, not decoded:

- A request head is its line and its block of header lines. Clients repeat both, request after request, so each is
  checked once and its result kept in a bounded cache by whoever serves the connection (a dict look-up costs a
  hundredth of a parse; h11 costs five times all of nginx).
- A response head differs every time (dates, audit ids), so it is only scanned for framing.
- A chunked body is walked, not decoded: its bytes go through as they are.

What RFC 9112 lets a recipient tolerate and attackers use is refused: bare LF, obs-fold, white space before the colon,
both Content-Length and Transfer-Encoding, repeated lengths, any transfer coding but `chunked`, chunk sizes that are
not plain hex. Whatever is accepted, h11 reads in the same way: tests hold the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lbproxy.core.config import ForwardedFor
from lbproxy.core.kubernetes import is_long_stream

CHUNKED = -1  # a body length: chunked framing
UNTIL_CLOSE = -2  # a body length: the connection's end is the body's end (responses only)
NO_LENGTH = -3

MAX_CHUNK_LINE = 1024  # bytes of a chunk's size and extensions, or of a partial line; h11 and Go have similar limits
MAX_LINES = 4096  # of a request's head: a mebibyte of `a:` lines would cost a quarter of a second
MAX_TRAILERS = 65536  # bytes of all trailer lines
MAX_LENGTH_DIGITS = 18  # of a Content-Length: below 2**63

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])").fullmatch
# The white space around a value is stripped afterwards: with `[ \t]*` on both sides a run of blanks can be split in as
# many ways as it is long, and 2 KB of them took seconds to refuse.
_HEADER_LINE = re.compile(rb"(" + _TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*)").fullmatch
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#@]+)(/[^#]*|\?[^#]*)?").fullmatch
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r").fullmatch
# The lines of a response head that frame it or concern only this hop, and folded ones. The first character is looked
# at before the case-insensitive part: that halves the time.
_RESPONSE_LINES = re.compile(
    rb"\r\n(?:[ \t]|[CcTtKkPpUu](?i:ontent-length|ransfer-encoding|onnection|eep-alive|roxy-connection|pgrade)[ \t]*:)"
    rb"[^\r\n]*"
).findall
# `HTTP/1.1 200` → (1, 200), for all there are: a look-up instead of a match, two conversions and their objects.
_STATUS = {b"HTTP/1.%d %d" % (minor, code): (minor, code) for minor in (0, 1) for code in range(100, 600)}
# Everything but what ends lines and NUL: what is left of a head without these must be CRLF after CRLF.
_TEXT = bytes(set(range(256)) - {0x00, 0x0A, 0x0D})
_LINE_ENDS = b"\r\n" * 1024
# What many servers say though HTTP/1.1 means it anyway: removed without taking the head apart.
_KEEP_ALIVE = b"\r\nConnection: keep-alive"

_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"})
# Names that a Connection header may not nominate for removal: that would change what the backend understands.
_NOT_REMOVABLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"x-forwarded-for"})


# Names that may not stand in trailers: a recipient that merged them into the head would frame it differently.
_NO_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host", b"connection"})


class BadMessageError(Exception):
    """A message that is refused. `status` is what a client is answered; the text says what is wrong with it."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A checked request line. `forward` is the line for the backend, CRLF included, always as HTTP/1.1."""

    method: str
    target: bytes
    minor: int  # HTTP/1.minor
    forward: bytes
    long_stream: bool
    host: bytes | None  # from a target in absolute form; replaces the Host header (RFC 9112, 3.2.2)


@dataclass(frozen=True, slots=True)
class RequestBlock:
    """A checked block of header lines. `forward` wants the client's address, then CRLF CRLF, behind it."""

    forward: bytes
    length: int  # bytes, or CHUNKED
    close: bool  # the client wants the connection closed after this request
    keep_alive: bool  # an HTTP/1.0 client asks to keep it open
    upgrade: bool
    needs_host: bool  # `forward` has no Host line: the exchange adds the backend's address
    key: bytes  # the value of the header that the pool hashes, b"" if none


@dataclass(frozen=True, slots=True)
class HeaderPolicy:
    """How forwarded request heads differ from what came: the `http` section, for one class of clients."""

    forwarded_for: ForwardedFor = ForwardedFor.APPEND
    host: str = "preserve"  # preserve | backend | a text; with `backend` the Host line is left to the exchange
    keep_forwarded: bool = False  # X-Forwarded-Proto and -Host as they came: the client is a trusted proxy
    drop_forwarded_for: bool = False  # the client is not one, and only trusted ones may say for whom they speak
    proto: bytes = b"http"
    key_header: bytes = b""  # lower-case name of the header that the pool hashes


def parse_request_line(line: bytes) -> RequestLine:
    """Check a request line (without CRLF). Raises BadMessageError."""
    match = _REQUEST_LINE(line)
    if match is None:
        raise _bad_request_line(line)
    method, target, minor = match.groups()
    host = None
    if method == b"CONNECT":
        raise BadMessageError("CONNECT is not for a balancer: it is no forward proxy", 405)
    if target[0] != 0x2F:
        absolute = _ABSOLUTE(target)
        if absolute is not None:
            host = absolute[1]
            if _HOST(host) is None:
                raise BadMessageError("the host in the request target is malformed")
            target = absolute[2] or b"/"
            if target[0] != 0x2F:
                target = b"/" + target
        elif target != b"*" or method != b"OPTIONS":
            raise BadMessageError("the request target is neither a path nor an http URL")
    return RequestLine(
        method.decode(),
        target,
        minor[0] - 0x30,
        method + b" " + target + b" HTTP/1.1\r\n",
        is_long_stream(target),
        host,
    )


def _bad_request_line(line: bytes) -> BadMessageError:
    if line[:1] == b"\x16":
        return BadMessageError("this is a TLS handshake, and the listener speaks plain HTTP")
    if line.startswith(b"PRI * HTTP/2"):
        return BadMessageError("HTTP/2 is not spoken here; use a tcp listener for it", 505)
    if re.search(rb" HTTP/[0-9.]+$", line) and not re.search(rb" HTTP/1\.[01]$", line):
        return BadMessageError("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    return BadMessageError("the request line is malformed")


def parse_request_block(block: bytes, minor: int, policy: HeaderPolicy, host: bytes | None = None) -> RequestBlock:
    """Check the header lines of a request (CRLF between them, none at the end). Raises BadMessageError.

    `host` replaces the Host line's value.
    """
    if block.count(b"\r\n") >= MAX_LINES:
        raise BadMessageError(f"the request has more than {MAX_LINES} header lines", 431)
    lines = [_header(line) for line in block.split(b"\r\n")] if block else []
    names = [name for name, _value, _line in lines]
    tokens = [token for name, value, _line in lines if name == b"connection" for token in _tokens(value)]
    nominated = {token for token in tokens if token not in (b"close", b"keep-alive", b"upgrade")}
    if nominated & _NOT_REMOVABLE:
        raise BadMessageError("the Connection header names a header that must not be removed")
    upgrade = minor == 1 and b"upgrade" in tokens and b"upgrade" in names
    named = _host(lines, minor)
    host_value = named if host is None else host
    keep: list[bytes] = []
    addresses: list[bytes] = []
    for name, value, line in lines:
        if name == b"x-forwarded-for" and policy.forwarded_for is not ForwardedFor.OFF:
            if policy.forwarded_for is ForwardedFor.APPEND and not policy.drop_forwarded_for and value:
                addresses.append(value)
        elif name in (b"x-forwarded-proto", b"x-forwarded-host"):
            if policy.keep_forwarded:
                keep.append(line)
        elif name == b"host":
            keep += _host_line(line, host, policy)
        elif name == b"te":
            if b"trailers" in _tokens(value):
                keep.append(b"TE: trailers")
        elif (name == b"upgrade" and upgrade) or (name not in _HOP_BY_HOP and name not in nominated):
            keep.append(line)
    if b"host" not in names:
        keep += _host_line(None, host, policy)
    if upgrade:
        keep.append(b"Connection: Upgrade")
    if not policy.keep_forwarded or b"x-forwarded-proto" not in names:
        keep.append(b"X-Forwarded-Proto: " + policy.proto)
    if host_value and (not policy.keep_forwarded or b"x-forwarded-host" not in names):
        keep.append(b"X-Forwarded-Host: " + host_value)
    if policy.forwarded_for is not ForwardedFor.OFF:
        keep.append(b"X-Forwarded-For: " + b"".join(address + b", " for address in addresses))
    return RequestBlock(
        forward=b"\r\n".join(keep),
        length=_request_length(lines, minor),
        close=b"close" in tokens,
        keep_alive=b"keep-alive" in tokens,
        upgrade=upgrade,
        needs_host=policy.host == "backend" or (policy.host == "preserve" and not host_value and b"host" not in names),
        key=_key(lines, policy.key_header, host_value),
    )


_Header = tuple[bytes, bytes, bytes]  # lower-case name, value without white space around it, the line as it came


def _header(line: bytes) -> _Header:
    match = _HEADER_LINE(line)
    if match is None:
        if line[:1] in (b" ", b"\t"):
            raise BadMessageError("a header line is folded (RFC 9112, 5.2: obs-fold)")
        if b"\n" in line or b"\r" in line:
            raise BadMessageError("a line ends in a bare LF or CR")
        raise BadMessageError("a header line is malformed")
    return match[1].lower(), match[2].strip(b" \t"), line


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t").lower() for token in value.split(b",")]


def _host(lines: list[_Header], minor: int) -> bytes:
    hosts = [value for name, value, _line in lines if name == b"host"]
    if len(hosts) > 1:
        raise BadMessageError("there is more than one Host header")
    if not hosts:
        if minor == 1:
            raise BadMessageError("there is no Host header")
        return b""
    if _HOST(hosts[0]) is None:
        raise BadMessageError("the Host header is malformed")
    return hosts[0]


def _host_line(line: bytes | None, host: bytes | None, policy: HeaderPolicy) -> list[bytes]:
    """The Host line to forward, if it is known here: the client's `line`, or as the target or the policy has it."""
    if policy.host == "backend":
        return []
    if policy.host != "preserve":
        return [b"Host: " + policy.host.encode()]
    if host is not None:
        return [b"Host: " + host]
    return [] if line is None else [line]


def _key(lines: list[_Header], name: bytes, host: bytes) -> bytes:
    if not name:
        return b""
    if name == b"host":
        return host
    return next((value for header, value, _line in lines if header == name), b"")


def _request_length(lines: list[_Header], minor: int) -> int:
    lengths = [value for name, value, _line in lines if name == b"content-length"]
    codings = [value for name, value, _line in lines if name == b"transfer-encoding"]
    if codings:
        if lengths:
            raise BadMessageError("there are both Content-Length and Transfer-Encoding")
        if minor == 0:
            raise BadMessageError("there is a Transfer-Encoding in an HTTP/1.0 request")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadMessageError("the only transfer coding understood is chunked", 501)
        return CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1:
        raise BadMessageError("there is more than one Content-Length")
    if _LENGTH(lengths[0]) is None:
        raise BadMessageError("the Content-Length is not a plain number")
    return int(lengths[0])


class ResponseHead:
    """What framing needs of a response head; mutable only because a frozen dataclass costs three times as much."""

    __slots__ = ("close", "hop", "length", "minor", "status")

    def __init__(self, minor: int, status: int) -> None:
        self.minor = minor
        self.status = status
        self.length = UNTIL_CLOSE  # bytes, CHUNKED or UNTIL_CLOSE; before HEAD, 204 and 304 are considered
        self.close = not minor  # the backend will close the connection
        self.hop = 0  # lines to remove


def parse_response_head(data: bytes, end: int) -> ResponseHead:
    """Scan a response head; `end` is the offset of its CRLF CRLF in `data`. Raises BadMessageError.

    Not every character is checked, as it is for requests: the backend is ours. What could frame it differently is.
    """
    lines = data[: end + 2]
    start = _STATUS.get(lines[:12])
    if start is None or lines[12] not in b" \r":
        raise BadMessageError("the status line is malformed")
    ends = lines.translate(None, _TEXT)
    if not _LINE_ENDS.startswith(ends) and ends.replace(b"\r\n", b""):
        raise BadMessageError("there is a bare LF, a bare CR or a NUL in the response head")
    head = ResponseHead(*start)
    length = NO_LENGTH
    for line in _RESPONSE_LINES(lines):
        name, _, value = line.partition(b":")
        size = len(name) - 2  # without its CRLF
        if line[2] in b" \t" or name[-1] in b" \t":
            raise BadMessageError("there is a folded line or white space before a colon in the response head")
        value = value.strip(b" \t")
        if size == 14:  # content-length
            if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS or length not in (NO_LENGTH, int(value)):
                raise BadMessageError("the response's Content-Length is malformed or repeated")
            length = int(value)
        elif size == 17:  # transfer-encoding
            if value.lower() != b"chunked" or head.length == CHUNKED:
                raise BadMessageError("the response's only transfer coding understood is chunked")
            head.length = CHUNKED
        else:
            head.hop += 1
            if size == 10 and name[2] | 0x20 == 0x63:  # connection; keep-alive begins with k
                tokens = _tokens(value)
                if b"close" in tokens:
                    head.close = True
                elif not head.minor and b"keep-alive" in tokens:
                    head.close = False
    if length != NO_LENGTH:
        if head.length == CHUNKED:
            raise BadMessageError("the response has both Content-Length and Transfer-Encoding")
        head.length = length
    return head


def without_keep_alive(data: bytes, body: int) -> bytes:
    """A response head, `data[:body]`, without the line `Connection: keep-alive`, or b"" if it has no such line.

    For a head with one hop-by-hop line this is all that forwarding takes.
    """
    at = data.find(_KEEP_ALIVE, 0, body)
    after = at + len(_KEEP_ALIVE)
    return data[:at] + data[after:body] if at > 0 and data.startswith(b"\r\n", after) else b""


def response_head_to_forward(head: bytes, *, chunked: bool, upgrade: bool, connection: bytes) -> bytes:
    """A response head (with CRLF CRLF) as HTTP/1.1 and without its hop-by-hop lines.

    `chunked` keeps Transfer-Encoding, `upgrade` keeps Upgrade and Connection (for 101); a `connection` that is not
    empty is the value of a Connection line to add.
    """
    lines = head[:-4].split(b"\r\n")
    keep = [b"HTTP/1.1" + lines[0][8:]]
    nominated: set[bytes] = set()
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"connection":
            nominated.update(_tokens(value))
    for line in lines[1:]:
        name = line.partition(b":")[0].lower()
        if name == b"transfer-encoding":
            wanted = chunked
        elif name in (b"connection", b"upgrade"):
            wanted = upgrade
        elif name in _HOP_BY_HOP:
            wanted = False
        else:
            wanted = name not in nominated or name == b"content-length"
        if wanted:
            keep.append(line)
    if connection:
        keep.append(b"Connection: " + connection)
    return b"\r\n".join(keep) + b"\r\n\r\n"


class ChunkedWalk:
    """Finds the end of a chunked body, byte by byte or by the megabyte, and refuses what is not exactly one.

    State: `_left` bytes of the current chunk's data and its CRLF are to come; `_line` holds a partial size or trailer
    line; `_trailer` counts the bytes of trailers once the last chunk has been seen.
    """

    __slots__ = ("_left", "_line", "_trailer", "payload")

    def __init__(self) -> None:
        self._left = 0
        self._line = b""
        self._trailer = -1
        self.payload = 0  # bytes of data seen, framing not counted

    def feed(self, data: bytes, pos: int = 0, sink: list[bytes] | None = None) -> int:
        """The offset after the body's last byte, or -1 when all of `data` belongs to it and more is to come.

        Chunk data is appended to `sink` when there is one. Raises BadMessageError.
        """
        size = len(data)
        while True:
            if self._left:
                pos = self._data(data, pos, size, sink)
                if self._left:
                    return -1
            end = data.find(b"\n", pos)
            if end < 0:
                self._line += data[pos:]
                if len(self._line) > MAX_CHUNK_LINE and (self._trailer < 0 or len(self._line) > MAX_TRAILERS):
                    raise BadMessageError("a chunk's size line is too long")
                return -1
            line = self._line + data[pos:end] if self._line else data[pos:end]
            self._line = b""
            pos = end + 1
            if self._trailer >= 0:
                if line == b"\r":
                    return pos
                self._trailer_line(line)
            else:
                self._size_line(line)

    def _data(self, data: bytes, pos: int, size: int, sink: list[bytes] | None) -> int:
        left = self._left
        if left > 2:
            take = min(left - 2, size - pos)
            if sink is not None and take:
                sink.append(data[pos : pos + take])
            self.payload += take
            left -= take
            pos += take
        while left <= 2 and left and pos < size:
            if data[pos] != (0x0D if left == 2 else 0x0A):
                raise BadMessageError("a chunk is longer than its size says")
            left -= 1
            pos += 1
        self._left = left
        return pos

    def _size_line(self, line: bytes) -> None:
        match = _CHUNK_LINE(line)
        if match is None or len(line) > MAX_CHUNK_LINE:
            raise BadMessageError("a chunk size is malformed")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailer = 0

    def _trailer_line(self, line: bytes) -> None:
        self._trailer += len(line)
        if self._trailer > MAX_TRAILERS:
            raise BadMessageError("the trailers are too long")
        match = _HEADER_LINE(line[:-1])
        if line[-1:] != b"\r" or match is None:
            raise BadMessageError("a trailer line is malformed")
        if match[1].lower() in _NO_TRAILERS:
            raise BadMessageError("a trailer line says what only a head may (RFC 9110, 6.5.1)")

"""Request heads: checked once, and what of them goes to the backend."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lbproxy.core.config import ForwardedFor
from lbproxy.core.http1.grammar import CHUNKED, HOP_BY_HOP, TOKEN, BadMessageError, match_header_line, split_tokens
from lbproxy.core.kubernetes import is_collection, lease_name, stream_kind

MAX_LINES = 4096  # of a request's head: a mebibyte of `a:` lines would cost a quarter of a second

_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])").fullmatch
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#@]+)(/[^#]*|\?[^#]*)?").fullmatch
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
# Names that a Connection header may not nominate for removal: that would change what the backend understands.
_NOT_REMOVABLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"x-forwarded-for"})


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A checked request line. `forward` is the line for the backend, CRLF included, always as HTTP/1.1."""

    method: str
    target: bytes
    minor: int  # HTTP/1.minor
    forward: bytes
    long_stream: str  # what kind of one it is (core/kubernetes.py), or "": watch, log, exec, ...
    herd: bool  # a watch or a list: what comes all at once after an outage
    lease: str  # NAMESPACE/NAME of a lease that it renews, or ""
    host: bytes | None  # from a target in absolute form; replaces the Host header (RFC 9112, 3.2.2)
    logged: str  # the access log's `"method":"...","target":"..."`


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
    kind = stream_kind(target)
    return RequestLine(
        method=method.decode(),
        target=target,
        minor=minor[0] - 0x30,
        forward=method + b" " + target + b" HTTP/1.1\r\n",
        long_stream=kind,
        herd=method == b"GET" and (kind == "watch" or is_collection(target)),
        lease=lease_name(target) if method in (b"PUT", b"PATCH") else "",
        host=host,
        logged=_logged(method.decode(), target.decode()),
    )


def _logged(method: str, target: str) -> str:
    """Both are printable ASCII: for JSON only these two characters need escaping."""
    escaped = target.replace("\\", "\\\\").replace('"', '\\"')
    return f'"method":"{method}","target":"{escaped}"'


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
    tokens = [token for name, value, _line in lines if name == b"connection" for token in split_tokens(value)]
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
            if b"trailers" in split_tokens(value):
                keep.append(b"TE: trailers")
        elif (name == b"upgrade" and upgrade) or (name not in HOP_BY_HOP and name not in nominated):
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
    match = match_header_line(line)
    if match is None:
        if line[:1] in (b" ", b"\t"):
            raise BadMessageError("a header line is folded (RFC 9112, 5.2: obs-fold)")
        if b"\n" in line or b"\r" in line:
            raise BadMessageError("a line ends in a bare LF or CR")
        raise BadMessageError("a header line is malformed")
    return match[1].lower(), match[2].strip(b" \t"), line


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

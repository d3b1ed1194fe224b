"""Request heads that have been checked before.

Clients repeat their request line and their block of header lines on every request, so what http1.py made of them is
kept. The caches are bounded by entries and by bytes, and emptied when full: the working set is back in a moment, and
an attacker's rubbish costs no more than a parse per request. Whole heads have bounds of their own: there may be as many
of them as lines times blocks, and they must not cost the lines and the blocks their place.
"""

from __future__ import annotations

import ipaddress

from lbproxy.core.config import ForwardedFor, Http
from lbproxy.core.http1 import (
    BadMessageError,
    HeaderPolicy,
    RequestBlock,
    RequestLine,
    parse_request_block,
    parse_request_line,
)

MAX_ENTRIES = 4096
MAX_BYTES = 2 << 20  # of keys; what is kept for them is about as large, and counted for whole heads
MAX_CACHED = 4096  # bytes of one line or block; longer ones (large bearer tokens) are parsed each time


class HeadCache:
    """Checked lines and blocks of the clients that one policy holds for."""

    __slots__ = ("_bytes", "_plain_bytes", "_plain_methods", "blocks", "lines", "plain", "policy")

    def __init__(self, policy: HeaderPolicy, plain_methods: frozenset[str]) -> None:
        self.policy = policy
        self.lines: dict[bytes, RequestLine] = {}
        self.blocks: dict[bytes, RequestBlock] = {}
        # By whole heads, CRLF CRLF included; the third is what goes to the backend, but for the tail.
        self.plain: dict[bytes, tuple[RequestLine, RequestBlock, bytes]] = {}
        self._plain_methods = plain_methods
        self._bytes = 0
        self._plain_bytes = 0

    def tail(self, ip: str) -> bytes:
        """What ends a forwarded head: the client's address where X-Forwarded-For wants it."""
        address = b"" if self.policy.forwarded_for is ForwardedFor.OFF else (ip or "unix:").encode()
        return address + b"\r\n\r\n"

    def line(self, line: bytes) -> RequestLine:
        """Check a request line. Raises BadMessageError."""
        known = self.lines.get(line)
        if known is None:
            known = parse_request_line(line)
            if self._room_for(line):
                self.lines[line] = known
        return known

    def block(self, line: RequestLine, block: bytes) -> RequestBlock:
        """Check a block of header lines. Raises BadMessageError."""
        checked = parse_request_block(block, line.minor, self.policy, line.host)
        if line.minor and line.host is None and self._room_for(block):
            self.blocks[block] = checked
        return checked

    def remember(self, data: bytes, end: int, line: RequestLine, block: RequestBlock) -> None:
        """Keep a whole head, data[:end], if it is a plain request's: one that takes no more than a pick and a send."""
        if (
            line.method in self._plain_methods
            and line.minor
            and line.host is None
            and not (line.long_stream or block.length or block.upgrade or block.needs_host)
            and end <= MAX_CACHED
            and (head := data[:end]) not in self.plain
        ):
            forward = line.forward + block.forward
            size = end + len(forward)
            self._plain_bytes += size
            if self._plain_bytes > MAX_BYTES or len(self.plain) >= MAX_ENTRIES:
                self.plain.clear()
                self._plain_bytes = size
            self.plain[head] = line, block, forward

    def _room_for(self, key: bytes) -> bool:
        size = len(key)
        if size > MAX_CACHED:
            return False
        self._bytes += size
        if self._bytes > MAX_BYTES or len(self.blocks) + len(self.lines) > MAX_ENTRIES:
            self.lines.clear()
            self.blocks.clear()
            self._bytes = size
        return True


class Heads:
    """The caches of one listener: clients that are trusted proxies have one of their own."""

    __slots__ = ("_clients", "_others", "_trusted", "_trusted_networks")

    def __init__(self, http: Http, key: str, repeatable: frozenset[str]) -> None:
        """`key` is what the pool hashes (remote_addr, uri, host, header:NAME or ""), `repeatable` its retry.methods."""
        header = "" if key in ("uri", "remote_addr") else key.removeprefix("header:")
        plain = frozenset() if key else repeatable - {"HEAD"}
        self._trusted_networks = [ipaddress.ip_network(cidr, strict=False) for cidr in http.trusted_proxies]
        self._trusted = HeadCache(_policy(http, header, trusted=True), plain)
        self._others = HeadCache(_policy(http, header, trusted=False), plain)
        self._clients: dict[str, tuple[HeadCache, bytes]] = {}

    def known_client(self, ip: str) -> tuple[HeadCache, bytes]:
        """The cache for a client's address, and what ends its heads: addresses repeat, and this costs 0.35 µs else."""
        known = self._clients.get(ip)
        if known is None:
            cache = self.for_client(ip)
            if len(self._clients) >= MAX_ENTRIES:
                self._clients.clear()
            self._clients[ip] = known = cache, cache.tail(ip)
        return known

    def for_client(self, ip: str) -> HeadCache:
        """The cache for a client's address."""
        if self._trusted_networks and ip:
            address = ipaddress.ip_address(ip)
            if any(address in network for network in self._trusted_networks):
                return self._trusted
        return self._others


def _policy(http: Http, key_header: str, *, trusted: bool) -> HeaderPolicy:
    return HeaderPolicy(
        forwarded_for=http.forwarded_for,
        host=http.host,
        keep_forwarded=trusted,
        drop_forwarded_for=bool(http.trusted_proxies) and not trusted,
        key_header=key_header.lower().encode(),
    )


def not_http(data: bytes) -> BadMessageError:
    """What to say of first bytes that cannot begin a request."""
    try:
        parse_request_line(data[:16])
    except BadMessageError as error:
        return error
    return BadMessageError("the request line is malformed")

"""Response heads: scanned for what frames them, and cleared of what concerns only one hop."""

from __future__ import annotations

import re

from lbproxy.core.http1.grammar import (
    CHUNKED,
    HOP_BY_HOP,
    MAX_LENGTH_DIGITS,
    NO_LENGTH,
    UNTIL_CLOSE,
    BadMessageError,
    split_tokens,
)

# The lines of a response head that frame it or concern only this hop, and folded ones. The first character is looked
# at before the case-insensitive part: that halves the time.
_RESPONSE_LINES = re.compile(
    rb"\r\n(?:[ \t]|[CcTtKkPpUu](?i:ontent-length|ransfer-encoding|onnection|eep-alive|roxy-connection|pgrade)[ \t]*:)"
    rb"[^\r\n]*"
)
_find_lines = _RESPONSE_LINES.findall
framing_lines = _RESPONSE_LINES.finditer
FRAMING_NAMES = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"upgrade"}
)
# `HTTP/1.1 200` → (1, 200), for all there are: a look-up instead of a match, two conversions and their objects.
_STATUS = {b"HTTP/1.%d %d" % (minor, code): (minor, code) for minor in (0, 1) for code in range(100, 600)}
_BODYLESS = frozenset({*range(100, 200), 204, 304})  # no body, whatever Content-Length says (RFC 9112, 6.3)
REFUSALS = frozenset({429, 503})  # what an apiserver that shuts down says to requests that it does not begin
# Everything but what ends lines and NUL: what is left of a head without these must be CRLF after CRLF.
_TEXT = bytes(set(range(256)) - {0x00, 0x0A, 0x0D})
_LINE_ENDS = b"\r\n" * 1024
# What many servers say though HTTP/1.1 means it anyway: removed without taking the head apart.
KEEP_ALIVE = b"\r\nConnection: keep-alive"


# What has been understood of framing lines before: backends say the same few things again and again, but for lengths.
_MAX_KNOWN = 4096
_MAX_KNOWN_SIZE = 128  # bytes; longer ones are odd ones
_known: dict[bytes, ResponseHead] = {}


class ResponseHead:
    """What framing needs of a response head. Shared by all responses that are framed alike: never changed."""

    __slots__ = ("close", "hop", "length", "minor", "status", "whole")

    def __init__(self, minor: int, status: int) -> None:
        self.minor = minor
        self.status = status
        self.length = UNTIL_CLOSE  # bytes, CHUNKED or UNTIL_CLOSE; before HEAD, 204 and 304 are considered
        self.close = not minor  # the backend will close the connection
        self.hop = 0  # lines to remove
        self.whole = (
            False  # an ordinary final answer of known length on a connection that stays open, to any method but HEAD
        )


def parse_response_head(data: bytes, end: int) -> ResponseHead:
    """Scan a response head; `end` is the offset of its CRLF CRLF in `data`. Raises BadMessageError.

    Not every character is checked, as it is for requests: the backend is ours. What could frame it differently is.
    """
    lines = data[: end + 2]
    ends = lines.translate(None, _TEXT)
    if not _LINE_ENDS.startswith(ends) and ends.replace(b"\r\n", b""):
        raise BadMessageError("there is a bare LF, a bare CR or a NUL in the response head")
    framing = _find_lines(lines)
    # The status line's first 13 bytes and the framing lines decide everything below: half of the cost is saved.
    key = lines[:13] + b"".join(framing)
    head = _known.get(key)
    if head is None:
        head = _understand(lines[:13], framing)
        if len(key) <= _MAX_KNOWN_SIZE:
            if len(_known) >= _MAX_KNOWN:
                _known.clear()
            _known[key] = head
    return head


def _understand(status_line: bytes, framing: list[bytes]) -> ResponseHead:
    start = _STATUS.get(status_line[:12])
    if start is None or status_line[12] not in b" \r":
        raise BadMessageError("the status line is malformed")
    head = ResponseHead(*start)
    length = NO_LENGTH
    for line in framing:
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
                tokens = split_tokens(value)
                if b"close" in tokens:
                    head.close = True
                elif not head.minor and b"keep-alive" in tokens:
                    head.close = False
    if length != NO_LENGTH:
        if head.length == CHUNKED:
            raise BadMessageError("the response has both Content-Length and Transfer-Encoding")
        head.length = length
    ordinary = head.status not in _BODYLESS and head.status not in REFUSALS
    head.whole = ordinary and head.length >= 0 and head.minor == 1 and not head.close
    return head


def plain_response(head: ResponseHead, data: bytes, body: int) -> bytes:
    """A `whole` response, `data`, without its one line `Connection: keep-alive`; its body begins at `body`.

    b"" if that takes response_head_to_forward: it has other hop-by-hop lines.
    """
    at = data.find(KEEP_ALIVE, 0, body) if head.hop == 1 else -1
    after = at + len(KEEP_ALIVE)
    if at < 0 or not data.startswith(b"\r\n", after):
        return b""
    return data[:at] + data[after:]


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
            nominated.update(split_tokens(value))
    for line in lines[1:]:
        name = line.partition(b":")[0].lower()
        if name == b"transfer-encoding":
            wanted = chunked
        elif name in (b"connection", b"upgrade"):
            wanted = upgrade
        elif name in HOP_BY_HOP:
            wanted = False
        else:
            wanted = name not in nominated or name == b"content-length"
        if wanted:
            keep.append(line)
    if connection:
        keep.append(b"Connection: " + connection)
    return b"\r\n".join(keep) + b"\r\n\r\n"

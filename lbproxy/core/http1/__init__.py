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

from lbproxy.core.http1.chunked import MAX_CHUNK_LINE, MAX_TRAILERS, ChunkedWalk
from lbproxy.core.http1.grammar import CHUNKED, UNTIL_CLOSE, BadMessageError
from lbproxy.core.http1.request import (
    MAX_LINES,
    HeaderPolicy,
    RequestBlock,
    RequestLine,
    parse_request_block,
    parse_request_line,
)
from lbproxy.core.http1.response import (
    REFUSALS,
    ResponseHead,
    parse_response_head,
    plain_response,
    response_head_to_forward,
)
from lbproxy.core.http1.whole import Shape, whole_answer

__all__ = [
    "CHUNKED",
    "MAX_CHUNK_LINE",
    "MAX_LINES",
    "MAX_TRAILERS",
    "REFUSALS",
    "UNTIL_CLOSE",
    "BadMessageError",
    "ChunkedWalk",
    "HeaderPolicy",
    "RequestBlock",
    "RequestLine",
    "ResponseHead",
    "Shape",
    "parse_request_block",
    "parse_request_line",
    "parse_response_head",
    "plain_response",
    "response_head_to_forward",
    "whole_answer",
]

"""What the parsers share: the grammar of a header line, body lengths, limits, and the refusal."""

from __future__ import annotations

import re

CHUNKED = -1  # a body length: chunked framing
UNTIL_CLOSE = -2  # a body length: the connection's end is the body's end (responses only)
NO_LENGTH = -3

MAX_LENGTH_DIGITS = 18  # of a Content-Length: below 2**63

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# The white space around a value is stripped afterwards: with `[ \t]*` on both sides a run of blanks can be split in as
# many ways as it is long, and 2 KB of them took seconds to refuse.
match_header_line = re.compile(rb"(" + TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*)").fullmatch

HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"})


class BadMessageError(Exception):
    """A message that is refused. `status` is what a client is answered; the text says what is wrong with it."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def split_tokens(value: bytes) -> list[bytes]:
    """The lower-case elements of a comma-separated value."""
    return [token.strip(b" \t").lower() for token in value.split(b",")]

"""What another backend's answer to a resumed watch means.

The client has its response already, with status 200: no other answer can be shown to it. What may be different on the
next backend is asked for there; what is an answer to the client ends its response, cleanly and between two events, as
the server does at every timeout. The client then watches again by itself, from its own last version, and is told
first-hand, say that it may no longer look (401, 403). To make up an event for it would be a lie in
one of three encodings.

A version that has expired rarely comes as 410: with the response's head sent before the watch cache is asked, it comes
as an ERROR event in a 200, which goes to the client like any other. A backend whose cache lags behind the version
answers 200 too, and waits.
"""

from __future__ import annotations

from enum import Enum

from lbproxy.core.watch.media import stream_type
from lbproxy.core.watch.stream import WatchStream


class Answer(Enum):
    """What to do with a stream after a resumed request was answered."""

    GO_ON = "go on"
    """Drop the head and forward the body, unless the stream is refused by its first event."""
    ELSEWHERE = "elsewhere"
    """Try another backend, and end the client's response when none is left."""
    END = "end"
    """End the client's response."""


_ELSEWHERE = frozenset(
    {
        404,  # a custom resource's definition that this backend has not seen yet; or one that is gone, then everywhere
        406,  # an encoding that this backend's version does not know
        408,
        410,  # this backend's cache does not reach back so far; others may have been up for longer
        429,  # overloaded, starting (watch cache not ready) or shutting down
    }
)


def judge_resumption(stream: WatchStream, status: int, head: bytes) -> Answer:
    """By an answer's status and head (status line and header lines)."""
    if status == 200:
        # The same request may be answered in another encoding by an apiserver of another version.
        return Answer.GO_ON if stream_type(head) is type(stream) else Answer.ELSEWHERE
    if status >= 500 or status in _ELSEWHERE:
        return Answer.ELSEWHERE
    return Answer.END

"""Which response bodies can be cut into events: those whose media type is known and whose bytes are not coded."""

from __future__ import annotations

import re

from lbproxy.core.watch.cbor_events import CborStream
from lbproxy.core.watch.json_events import JsonStream
from lbproxy.core.watch.protobuf_events import ProtobufStream
from lbproxy.core.watch.request import WatchRequest
from lbproxy.core.watch.stream import WatchStream

_CONTENT = re.compile(rb"\r\nContent-(Type|Encoding):[ \t]*([^\r\n]*)", re.IGNORECASE).findall
# The apiserver says `;stream=watch` only where a list has the same media type and is not JSON.
_STREAMS: dict[bytes, type[WatchStream]] = {
    b"application/json": JsonStream,
    b"application/json;stream=watch": JsonStream,
    b"application/vnd.kubernetes.protobuf;stream=watch": ProtobufStream,
    b"application/cbor-seq": CborStream,
}


def open_watch(request: WatchRequest, head: bytes) -> WatchStream | None:
    """The stream that begins behind a 200's head, or None if its events cannot be told apart."""
    kind = stream_type(head)
    return None if kind is None else kind(request.phase, request.version)


def stream_type(head: bytes) -> type[WatchStream] | None:
    """What reads the body behind a response's head, a status line and header lines."""
    media = b""
    for name, value in _CONTENT(head):
        if name.lower() == b"encoding":
            if value.strip(b" \t").lower() not in (b"", b"identity"):
                return None
        elif media:
            return None
        else:
            media = value
    return _STREAMS.get(media.translate(None, b" \t").lower())

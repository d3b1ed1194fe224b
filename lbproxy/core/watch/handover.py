"""A watch's body on its way to another process: what it is, as primitive values by name, and back.

The other process may be of another version, so names and meanings here are part of core/handover.py's FORMAT.
"""

from __future__ import annotations

from typing import Any

from lbproxy.core.watch.body import WatchBody
from lbproxy.core.watch.cbor_events import CborStream
from lbproxy.core.watch.json_events import JsonStream
from lbproxy.core.watch.progress import Phase
from lbproxy.core.watch.protobuf_events import ProtobufStream
from lbproxy.core.watch.stream import WatchStream

_KINDS: dict[str, type[WatchStream]] = {"json": JsonStream, "protobuf": ProtobufStream, "cbor": CborStream}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def body_state(body: WatchBody) -> dict[str, Any]:
    """What another process needs to go on with it."""
    stream = body.stream
    phase = stream.phase  # first: it reads the last event
    state: dict[str, Any] = {
        "kind": _NAMES[type(stream)],
        "phase": phase.value,
        "version": stream._version,
        "latest": stream._latest,
        "events": stream.events,
        "held": bytes(stream._held),
        "searched": stream._searched,
        "framed": body._framed,
        "between": body._between,
        "walk": body._walk.state(),
    }
    if isinstance(stream, CborStream):
        state["missing"] = stream._missing
    return state


def body_from(state: dict[str, Any]) -> WatchBody:
    """The body again. Raises KeyError and ValueError for what no process of this format says."""
    stream = _KINDS[state["kind"]](Phase(state["phase"]), state["version"])
    stream._latest = state["latest"]
    stream.events = state["events"]
    stream._held += state["held"]
    stream._searched = state["searched"]
    if isinstance(stream, CborStream):
        stream._missing = state["missing"]
    body = WatchBody(stream, framed=state["framed"])
    body._between = state["between"]
    body._walk.restore(state["walk"])
    return body

"""What a request for a watch asks for, and the same request again from a later version.

A watch is a GET of a collection with `watch` in its query, or of the old path form `/api/VERSION/watch/…` and
`/apis/GROUP/VERSION/watch/…`. (A GET of one object ignores `watch`: one object is watched with a fieldSelector on its
collection.) Parameters are read as Go does it: names and values may be percent-encoded, the first of a name counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil

from lbproxy.core.watch.progress import Phase

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_DIGITS = re.compile(rb"[0-9]{1,19}").fullmatch
# What says where a watch begins. resourceVersionMatch is refused on a watch without sendInitialEvents.
_BEGINNING = frozenset({b"resourceVersion", b"resourceVersionMatch", b"sendInitialEvents"})


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A request target that names a watch."""

    target: bytes
    phase: Phase  # in which its response begins
    version: bytes | None  # from which it can be asked for again before anything has come
    timeout: int | None  # seconds after which the server ends the watch; None: it chooses (30 to 60 minutes)
    bookmarks: bool

    def resumed_target(self, version: bytes, elapsed: float) -> bytes:
        """The target that asks for what comes after `version`, `elapsed` seconds after the first request.

        Nothing else changes: the same objects, selected and represented in the same way. A server that was given a
        timeout keeps to what is left of it, at least 1 s (0 would let it choose).
        """
        path, _, query = self.target.partition(b"?")
        resumed = [b"resourceVersion=" + version]
        for parameter in query.split(b"&") if query else ():
            name = _unquoted(parameter.partition(b"=")[0])
            if name in _BEGINNING:
                continue
            if name == b"timeoutSeconds" and self.timeout:
                parameter = b"timeoutSeconds=%d" % max(1, ceil(self.timeout - elapsed))
            resumed.append(parameter)
        return path + b"?" + b"&".join(resumed)


def parse_watch_request(target: bytes) -> WatchRequest | None:
    """The watch that a GET's target names, or None.

    None also where a `;` stands in the query: Go before 1.17 took it for a separator, later it is an error.
    """
    path, _, query = target.partition(b"?")
    if b";" in query:
        return None
    old_form = _is_old_form(path)
    if old_form is None:
        return None
    parameters = _parameters(query)
    if not old_form and not _flag(parameters, b"watch"):
        return None
    bookmarks = _flag(parameters, b"allowWatchBookmarks")
    version = parameters.get(b"resourceVersion", b"")
    known = version if _DIGITS(version) and int(version) else None
    initial = parameters.get(b"sendInitialEvents")
    if initial is not None and _flag(parameters, b"sendInitialEvents"):
        phase, known = Phase.MARKED if bookmarks else Phase.UNORDERED, None
    elif initial is None and not version.strip(b"0"):
        phase = Phase.UNORDERED
    else:
        phase = Phase.ORDERED
    timeout = parameters.get(b"timeoutSeconds", b"")
    seconds = int(timeout) if _DIGITS(timeout) else 0
    return WatchRequest(target, phase, known, seconds or None, bookmarks)


def _is_old_form(path: bytes) -> bool | None:
    """Whether a path has `watch` in it; None if it is neither that nor a collection's."""
    segments = path.split(b"/")
    if len(segments) < 3 or segments[0] or segments[1] not in (b"api", b"apis"):
        return None
    resource = segments[3:] if segments[1] == b"api" else segments[4:]
    if len(resource) > 1 and resource[0] == b"watch":
        return True
    if len(resource) == 3 and resource[0] == b"namespaces":
        resource = resource[2:]
    return False if len(resource) == 1 and resource[0] else None


def _parameters(query: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for parameter in query.split(b"&"):
        name, _, value = parameter.partition(b"=")
        found.setdefault(_unquoted(name), _unquoted(value))
    return found


def _unquoted(text: bytes) -> bytes:
    if b"%" not in text:
        return text
    return _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), text)


def _flag(parameters: dict[bytes, bytes], name: bytes) -> bool:
    """A boolean as the apiserver reads it: there, and neither `false` nor `0`."""
    return parameters.get(name, b"0").lower() not in (b"false", b"0")

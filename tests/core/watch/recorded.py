"""The recordings, read: what a real kube-apiserver (1.20) sent to watches of the same changes.

What that one cannot send is made of them: custom resources (the same objects with their keys sorted), watches with
sendInitialEvents (a marked BOOKMARK behind what existed), and CBOR.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lbproxy.core.http1 import ChunkedWalk
from tests.core.watch.cbor import encode_event

FOLDER = Path(__file__).parent / "recordings"


@dataclass(frozen=True)
class Recording:
    name: str
    target: bytes
    head: bytes  # the response's, with the empty line
    chunks: bytes  # the body as it came
    body: bytes  # the body
    events: list[tuple[bytes, bytes | None]]  # type and version of each
    existing: int = 0  # events that are made up from what exists, and the mark behind them
    derived: bool = False  # no server has sent it in this form

    def versions(self) -> list[bytes | None]:
        """The version to resume from after each number of events."""
        parameters = dict(part.partition(b"=")[::2] for part in self.target.partition(b"?")[2].split(b"&"))
        version = parameters.get(b"resourceVersion")
        found = [None if self.existing else version]
        for number, (kind, version) in enumerate(self.events, 1):
            found.append(version if kind != b"ERROR" and number > self.existing - self.marked else None)
        return found

    @property
    def marked(self) -> bool:
        return b"sendInitialEvents" in self.target


def _read(name: str, expected: dict[str, object]) -> Recording:
    response = (FOLDER / f"{name}.http").read_bytes()
    end = response.index(b"\r\n\r\n") + 4
    pieces: list[bytes] = []
    assert ChunkedWalk().feed(response, end, pieces) == len(response)
    events = expected["events"]
    assert isinstance(events, list)
    existing = 0
    if name.endswith(("unset", "zero")):
        existing = [kind for kind, _ in events].index("MODIFIED")
    return Recording(
        name,
        str(expected["target"]).encode(),
        response[:end],
        response[end:],
        b"".join(pieces),
        [(kind.encode(), version and version.encode()) for kind, version in events],
        existing,
    )


def _with_lines(recording: Recording, name: str, lines: list[bytes]) -> Recording:
    """In chunks of two events."""
    pairs = [b"".join(lines[at : at + 2]) for at in range(0, len(lines), 2)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(pair), pair) for pair in pairs) + b"0\r\n\r\n"
    return replace(recording, name=name, chunks=chunks, body=b"".join(lines), derived=True)


def _with_sorted_keys(recording: Recording) -> Recording:
    lines = []
    for line in recording.body.splitlines():
        event = json.loads(line)
        body = json.dumps(event["object"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        lines.append(b'{"type":"%b","object":%b}\n' % (event["type"].encode(), body.encode()))
    return _with_lines(recording, recording.name.replace("json", "custom"), lines)


def _with_mark(recording: Recording) -> Recording:
    """As if asked for with sendInitialEvents: the last bookmark, annotated, behind what existed."""
    lines = recording.body.splitlines(keepends=True)
    event = json.loads(lines[-1])
    version = max(int(version or b"0") for _, version in recording.events[: recording.existing])
    objects = [event["object"], *(row["object"] for row in event["object"].get("rows", []))]
    for body in objects:
        body["metadata"]["resourceVersion"] = str(version)
    objects[-1]["metadata"]["annotations"] = {"k8s.io/initial-events-end": "true"}
    mark = json.dumps(event, separators=(",", ":")).encode() + b"\n"
    at = recording.existing
    marked = _with_lines(recording, recording.name.replace("unset", "marked"), [*lines[:at], mark, *lines[at:]])
    events = [*recording.events[:at], (b"BOOKMARK", str(version).encode()), *recording.events[at:]]
    target = recording.target + b"&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    return replace(marked, events=events, target=target, existing=at + 1)


def _as_cbor(recording: Recording) -> Recording:
    events = [encode_event(json.loads(line)) for line in recording.body.splitlines()]
    cbor = _with_lines(recording, recording.name.replace("json", "cbor"), events)
    return replace(cbor, head=recording.head.replace(b"application/json", b"application/cbor-seq"))


def _all() -> Iterator[Recording]:
    recorded = {name: _read(name, about) for name, about in json.loads((FOLDER / "expected.json").read_text()).items()}
    yield from recorded.values()
    yield _with_sorted_keys(recorded["json"])
    yield _with_sorted_keys(recorded["json-zero"])
    yield _with_mark(recorded["json-unset"])
    yield _with_mark(recorded["table-unset"])
    yield _as_cbor(recorded["json"])
    yield _as_cbor(recorded["json-zero"])
    yield _as_cbor(recorded["json-expired"])
    yield _as_cbor(_with_mark(recorded["json-unset"]))
    yield replace(_as_cbor(_with_mark(recorded["table-unset"])), name="cbor-table-marked")


RECORDINGS = list(_all())

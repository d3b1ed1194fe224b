"""The recordings, read: what a real kube-apiserver (1.20) sent to a dozen watches of the same changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lbproxy.core.http1 import ChunkedWalk

FOLDER = Path(__file__).parent / "recordings"


@dataclass(frozen=True)
class Recording:
    name: str
    target: bytes
    head: bytes  # the response's, with the empty line
    chunks: bytes  # the body as it came
    body: bytes  # the body
    events: list[tuple[bytes, bytes | None]]  # type and version of each


def _read(name: str, expected: dict[str, object]) -> Recording:
    response = (FOLDER / f"{name}.http").read_bytes()
    end = response.index(b"\r\n\r\n") + 4
    pieces: list[bytes] = []
    assert ChunkedWalk().feed(response, end, pieces) == len(response)
    events = expected["events"]
    assert isinstance(events, list)
    return Recording(
        name,
        str(expected["target"]).encode(),
        response[:end],
        response[end:],
        b"".join(pieces),
        [(kind.encode(), version and version.encode()) for kind, version in events],
    )


RECORDINGS = [_read(name, expected) for name, expected in json.loads((FOLDER / "expected.json").read_text()).items()]
JSON = [recording for recording in RECORDINGS if not recording.name.startswith("protobuf")]

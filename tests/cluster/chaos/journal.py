"""What clients write down: a line of JSON for each call and for each event, with the time by the machine's clock.

Standard library only: the Python libraries under test run in an environment of their own, and write here too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

HANGS = 2.0  # seconds: a call that is still under way at the end and has been for so long has failed


@dataclass(frozen=True, slots=True)
class Call:
    """A request, or a watch from its opening to its end. `error` is empty for what went as its user expects."""

    client: str
    operation: str  # get, list, create, apply, watch, rollout
    began: float
    ended: float
    error: str = ""
    key: str = ""  # of a mutation: no other has it
    version: int = 0  # what a mutation came to


@dataclass(frozen=True, slots=True)
class Event:
    client: str
    at: float
    kind: str
    name: str
    version: int


class Change(NamedTuple):
    """An event as a library shows it."""

    kind: str
    name: str
    version: str


class Journal:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], tuple[float, str]] = {}

    def call(self, client: str, operation: str, work: Callable[[], int], key: str = "") -> bool:
        """Do it and write down how it went. What a library raises, whatever it is, is what its user would see."""
        began = time.time()
        self._under_way[client, operation] = (began, key)
        try:
            version, error = work(), ""
        except Exception as raised:
            version, error = 0, f"{type(raised).__name__}: {raised}"
        del self._under_way[client, operation]
        self.write(Call(client, operation, began, time.time(), error[:400], key, version))
        return not error

    def watch(self, client: str, changes: Iterable[Change]) -> int:
        """Write down all events of a stream, until it ends; the last version. Raises what the stream raises."""
        version = 0
        for change in changes:
            version = int(change.version)
            self.write(Event(client, time.time(), change.kind, change.name, version))
        return version

    def write(self, entry: Call | Event) -> None:
        with self._lock:
            self._file.write(json.dumps({type(entry).__name__: asdict(entry)}) + "\n")

    def finish(self) -> None:
        """Calls that hang have failed; watches may go on. Nothing is written after this."""
        now = time.time()
        for (client, operation), (began, key) in list(self._under_way.items()):
            if operation != "watch" and now - began > HANGS:
                self.write(Call(client, operation, began, now, f"no answer after {now - began:.0f} s", key))
        with self._lock:
            self._file.close()


class Pace:
    """When a client may call: not before `start`, not after `quiet`."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.quiet = threading.Event()
        self.over = threading.Event()

    def turns(self, pause: float) -> Iterator[int]:
        self.started.wait()
        number = 0
        while not self.quiet.wait(pause):
            number += 1
            yield number


def read(paths: Iterable[Path]) -> tuple[list[Call], list[Event]]:
    """All that was written so far, in the order of files. Half a line is still being written."""
    calls: list[Call] = []
    events: list[Event] = []
    for path in paths:
        for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
            if not line.endswith("\n"):
                continue
            match json.loads(line):
                case {"Call": fields}:
                    calls.append(Call(**fields))
                case {"Event": fields}:
                    events.append(Event(**fields))
    return calls, events

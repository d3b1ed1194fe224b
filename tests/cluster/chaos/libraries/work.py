"""What each library is asked to do, and who does it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tests.cluster.chaos.journal import Change, Journal, Pace

KEY = "key"  # the label that tells mutations apart
AGAIN = 0.2  # seconds until a watch that has ended is opened again, as the simplest of controllers does


def new_key() -> str:
    """No other mutation has it; it is found again in what etcd stores."""
    return f"chaos-{uuid.uuid4().hex}"


class Library(Protocol):
    """As a user would write it, with the library's own defaults for everything that is not asked for."""

    def list(self) -> int:
        """LIST the quiet namespace; how many there are."""

    def create(self, key: str) -> int:
        """Create an object with a generated name, so that doing it twice makes two; its version."""

    def version(self) -> str:
        """The version of a LIST of the watched namespace."""

    def watch(self, version: str) -> Iterator[Change]:
        """Watch the watched namespace from there."""


@dataclass
class Worker:
    name: str
    library: Library
    journal: Journal
    pace: Pace
    pause: float

    def start(self) -> None:
        for run in (self._watch, self._list, self._create):
            threading.Thread(target=run, daemon=True).start()

    def _list(self) -> None:
        for _ in self.pace.turns(self.pause):
            self.journal.call(self.name, "list", self.library.list)

    def _create(self) -> None:
        for _ in self.pace.turns(self.pause):
            key = new_key()
            self.journal.call(self.name, "create", lambda key=key: self.library.create(key), key)  # type: ignore[misc]

    def _watch(self) -> None:
        self.last = self.library.version()
        while not self.pace.over.is_set():
            if not self.journal.call(self.name, "watch", self._one_watch) and self.last == self._tried:
                self._relist()
            time.sleep(AGAIN)

    def _one_watch(self) -> int:
        self._tried = self.last
        return self.journal.watch(self.name, self._remembered())

    def _remembered(self) -> Iterator[Change]:
        for change in self.library.watch(self.last):
            self.last = change.version
            yield change

    def _relist(self) -> None:
        """A watch that fails before its first event: the version may be too old, so its user lists again."""
        try:
            self.last = self.library.version()
        except Exception:  # the failure is in the journal already, and comes again
            time.sleep(AGAIN)

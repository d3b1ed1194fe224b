"""The last events of the log, kept for who looks at the dashboard."""

from __future__ import annotations

from collections import deque
from typing import Any

KEPT = 50  # events
LONGEST = 500  # characters of a message: the complaints about an lb.yaml can fill pages


class RecentEvents:
    """A ring of events, newest last, numbered from 1."""

    def __init__(self) -> None:
        self._last = 0
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def note(self, ts: str, level: str, event: str, text: str) -> None:
        """Keep an event, whether it is written or not: the page is not the log."""
        if level == "debug":
            return
        self._last += 1
        text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        self._events.append({"number": self._last, "ts": ts, "level": level, "event": event, "msg": text})

    def since(self, number: int) -> list[dict[str, Any]]:
        """Those after that number; all if there is none of that number yet."""
        return [event for event in self._events if event["number"] > number or number > self._last]

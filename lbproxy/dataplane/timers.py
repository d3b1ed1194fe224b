"""Deadlines for many connections at almost no cost per request.

A connection carries its own `deadline`. Moving it later, which is what every request does, is one attribute write:
the wheel looks again when the old time comes and re-files the connection then. Only moving it earlier than the
slot it sits in files it a second time; the stale entry is recognised by `filed` and skipped. There is no cancel:
a deadline of NEVER is simply not due. A wheel of cancel scopes would cost 10 µs per use (trio 0.35), this 0.2 µs.

What is filed is kept in memory until its slot is due, so the first look is SOON: of thousands of connections a second
that are over by then, none is kept for the half minute of its deadline. What will most likely be over even sooner (a
dial, a connection for one request) is not filed at all, see `arm_briefly`: it stands in a set, and who is still there
at the next sweep, once a second, is filed then. That is 0.15 µs instead of 0.6 and a look at a corpse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

TICK = 0.1  # seconds; the resolution of every data-plane timeout
SOON = 1.0  # seconds after which the wheel first looks at what is due later
NEVER = float("inf")
UNFILED = NEVER


class Timed(Protocol):
    """What can be armed. `deadline` starts as NEVER, and `filed`, when the wheel will look at it, as UNFILED."""

    deadline: float
    filed: float

    def on_timeout(self) -> None:
        """The deadline has passed; it has been set to NEVER."""


class Timers:
    """The wheel. `now` is seconds on the monotonic clock, set by whoever turns it, once per batch of events."""

    __slots__ = ("_on_bug", "_slots", "_sweep", "_turned", "brief", "due", "now")

    def __init__(self, now: float, on_bug: Callable[[Timed], None]) -> None:
        self.now = now
        self._on_bug = on_bug  # called inside the except clause of a callback that raised
        self._slots: dict[int, list[Timed]] = {}
        self._turned = int(now / TICK)
        self._sweep = now + SOON
        self.brief: set[Timed] = set()  # to be filed at the next sweep; who ends before takes itself out
        self.due = 0.0  # `turn` has nothing to do before

    def __len__(self) -> int:
        """Slots in use; 0 means that nothing has to be woken for."""
        return len(self._slots) + bool(self.brief)

    def arm(self, timed: Timed, delay: float) -> None:
        """Call `timed.on_timeout()` after `delay` seconds, at most one TICK late, unless it is armed anew."""
        timed.deadline = deadline = self.now + delay
        if deadline < timed.filed:
            self.file(timed, deadline)

    def arm_briefly(self, timed: Timed, delay: float) -> None:
        """As arm(), of something new that will most likely be over within a second: see `brief`."""
        timed.deadline = deadline = self.now + delay
        timed.filed = sweep = self._sweep
        self.brief.add(timed)
        if deadline < sweep:
            self.file(timed, deadline)

    def file(self, timed: Timed, when: float) -> None:
        """Look at it at `when`. For those who have written `deadline` themselves, to save a call per request."""
        soon = self.now + SOON
        if when > soon:
            when = soon
        timed.filed = when
        self._slots.setdefault(max(int(when / TICK), self._turned) + 1, []).append(timed)

    def turn(self, now: float) -> None:
        """Set the clock and call what is due."""
        self.now = now
        due = int(now / TICK)
        self.due = (due + 1) * TICK
        if due == self._turned:
            return
        slots = self._slots
        if due - self._turned > len(slots):
            passed = sorted(slot for slot in slots if slot <= due)
        else:
            passed = [slot for slot in range(self._turned + 1, due + 1) if slot in slots]
        self._turned = due
        if now >= self._sweep:
            self._file_brief(now)
        for slot in passed:
            for timed in slots.pop(slot):
                if timed.filed < slot * TICK:
                    timed.filed = UNFILED
                    self._look(timed, now)

    def _file_brief(self, now: float) -> None:
        sweep, self._sweep = self._sweep, now + SOON
        brief, self.brief = self.brief, set()
        for timed in brief:
            if timed.filed == sweep:  # else its deadline was moved to before the sweep, and it has been filed
                timed.filed = UNFILED
                if timed.deadline != NEVER:
                    self.file(timed, timed.deadline)

    def _look(self, timed: Timed, now: float) -> None:
        if timed.deadline <= now:
            timed.deadline = NEVER
            try:
                timed.on_timeout()
            except Exception:  # the one guard: a bug ends a connection, not the worker
                self._on_bug(timed)
        elif timed.deadline != NEVER:
            timed.filed = when = timed.deadline
            self._slots.setdefault(max(int(when / TICK), self._turned) + 1, []).append(timed)

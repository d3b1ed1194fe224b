"""Sets that are walked in the order of entry: memory addresses must not decide anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from lbproxy.dataplane.timers import Timed, Timers


class InOrder(dict[object, None]):
    """What the data plane asks of a set."""

    def add(self, one: object) -> None:
        self[one] = None

    def discard(self, one: object) -> None:
        self.pop(one, None)


class SimTimers(Timers):
    """The wheel, with `brief` in order."""

    __slots__ = ()

    def __init__(self, now: float, on_bug: Callable[[Timed], None]) -> None:
        super().__init__(now, on_bug)
        self.brief = cast("set[Timed]", InOrder())

    def _file_brief(self, now: float) -> None:
        super()._file_brief(now)
        self.brief = cast("set[Timed]", InOrder())

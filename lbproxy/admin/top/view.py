"""What somebody at `lbproxy top` looks at, and what his keys change about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from lbproxy.admin.top.model import Backend, Look, Pool


class Sort(Enum):
    """The order of backends within a pool."""

    CONFIG = "as in lb.yaml"
    WORST = "worst first"
    ACTIVE = "most active"
    RATE = "busiest"
    FAILED = "most failures"


class Key(Enum):
    """What a key means."""

    QUIT = "quit"
    PAUSE = "pause"
    UP = "up"
    DOWN = "down"
    SORT = "sort"
    REDRAW = "redraw"
    STOP = "stop"


_KEYS = {
    "q": Key.QUIT,
    "Q": Key.QUIT,
    "p": Key.PAUSE,
    " ": Key.PAUSE,
    "k": Key.UP,
    "j": Key.DOWN,
    "s": Key.SORT,
    "\x0c": Key.REDRAW,  # ^L
    "\x1b[A": Key.UP,
    "\x1bOA": Key.UP,
    "\x1b[B": Key.DOWN,
    "\x1bOB": Key.DOWN,
}
# A sequence is one key: its last letter must not be taken for a command.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)|.", re.DOTALL)

_SEVERITY = {"down": 0, "not_ready": 1, "maint": 2, "drain": 3, "unknown": 4, "up": 5}


@dataclass(frozen=True, slots=True)
class View:
    """How it is looked at. `pool` is the number of the only one shown, or 0; `problem` is why there is no answer."""

    selected: tuple[str, str] | None = None  # pool and address
    sort: Sort = Sort.CONFIG
    paused: bool = False
    pool: int = 0
    problem: str = ""


def keys(data: bytes) -> list[Key | int]:
    """What a terminal has sent: known keys, and digits."""
    found: list[Key | int] = []
    for match in _SEQUENCE.finditer(data.decode("latin-1")):
        if match[0] in _KEYS:
            found.append(_KEYS[match[0]])
        elif match[0].isdecimal():
            found.append(int(match[0]))
    return found


def press(view: View, key: Key | int, look: Look | None) -> View:
    """The view after a key."""
    match key:
        case Key.PAUSE:
            return replace(view, paused=not view.paused)
        case Key.SORT:
            orders = list(Sort)
            return replace(view, sort=orders[(orders.index(view.sort) + 1) % len(orders)])
        case Key.UP | Key.DOWN if look is not None:
            return replace(view, selected=_step(view, look, 1 if key is Key.DOWN else -1))
        case int() if look is not None and key <= len(look.pools):
            # The only one there is, the one that is shown already, or none: all of them.
            return replace(view, pool=0 if key in (0, view.pool) or len(look.pools) == 1 else key)
    return view


def shown(view: View, look: Look) -> list[tuple[int, Pool, list[Backend]]]:
    """Pools with their numbers, and their backends in the order asked for."""
    return [
        (number, pool, ordered(pool, view.sort))
        for number, pool in enumerate(look.pools, 1)
        if view.pool in (0, number) or view.pool > len(look.pools)
    ]


def ordered(pool: Pool, sort: Sort) -> list[Backend]:
    """A pool's backends."""
    backends = list(pool.backends)
    match sort:
        case Sort.WORST:
            backends.sort(key=lambda one: _SEVERITY.get(one.verdict, 0))
        case Sort.ACTIVE:
            backends.sort(key=lambda one: -one.active)
        case Sort.RATE:
            backends.sort(key=lambda one: -(one.rate or 0))
        case Sort.FAILED:
            backends.sort(key=lambda one: -one.failed)
        case Sort.CONFIG:
            pass
    return backends


def _step(view: View, look: Look, by: int) -> tuple[str, str] | None:
    """The backend that many lines away; at the ends it stays."""
    known = [(one.pool, one.address) for _, _, backends in shown(view, look) for one in backends]
    if not known:
        return None
    if view.selected not in known:
        return known[0 if by > 0 else -1]
    return known[min(max(known.index(view.selected) + by, 0), len(known) - 1)]

"""Round robin's picks in advance: the same decisions and the same weights as one calculation after the other."""

from __future__ import annotations

import random

from hypothesis import example, given
from hypothesis import strategies as st

from lbproxy.core.config import Algorithm, BackendState
from lbproxy.core.health import Health
from lbproxy.core.pool import Pool, Selection
from tests.core.test_pool import backend, make


class Stepwise(Pool):
    """A pool that never looks ahead."""

    def look_ahead(self) -> bool:
        return False


WALKS = st.tuples(st.just("walk"), st.integers(0, 2), st.integers(0, 4))  # so many tries fail, then so many walks stay
HEALTH = st.tuples(st.just("health"), st.integers(0, 4), st.sampled_from([Health.UP, Health.DOWN, Health.NOT_READY]))
STATES = st.tuples(st.just("state"), st.integers(0, 4), st.sampled_from([BackendState.READY, BackendState.MAINT]))
BURSTS = st.tuples(st.just("burst"), st.integers(1, 90), st.just(0))


@given(
    st.lists(st.tuples(st.integers(1, 7), st.sampled_from([0, 0, 0, 2])), min_size=1, max_size=5),
    st.booleans(),
    st.lists(st.one_of(WALKS, HEALTH, STATES, BURSTS), max_size=30),
)
@example([(1, 0), (1, 0)], False, [("health", 0, Health.DOWN), ("health", 0, Health.UP), ("burst", 19, 0)])
def test_looking_ahead_changes_nothing(weights, backup, steps) -> None:  # type: ignore[no-untyped-def]
    backends = [
        backend(index, weight, max_connections=limit, backup=backup and index == len(weights) - 1 > 0)
        for index, (weight, limit) in enumerate(weights)
    ]
    one = make(Algorithm.ROUND_ROBIN, *backends)
    other = Stepwise(one.config, random.Random(1).randrange)  # of its own, and the same
    for now, (kind, first, second) in enumerate(steps):
        for pool in (one, other):
            if kind == "health":
                pool.set_health(first % len(backends), second)
            elif kind == "state":
                pool.set_state(first % len(backends), second)
        count = first if kind == "burst" else second if kind == "walk" else 0
        for _ in range(count):
            assert _walk(one, now, first if kind == "walk" else 0) == _walk(other, now, first if kind == "walk" else 0)
    one.rewind()
    assert _memory(one) == _memory(other)


def test_a_steady_pool_looks_its_picks_up() -> None:
    pool = make(Algorithm.ROUND_ROBIN, backend(1, 5), backend(2), backend(3))
    Selection(pool, "", b"").pick(0)
    assert pool.ahead  # so that the property above is not one of two pools that both calculate


def _walk(pool: Pool, now: int, failing: int) -> list[int | None]:
    selection = pool.select()
    picked: list[int | None] = []
    for _ in range(failing):
        peer = selection.pick(now)
        picked.append(None if peer is None else peer.index)
        if peer is None:
            return picked
        selection.fail(peer, now)
    peer = selection.pick(now)
    picked.append(None if peer is None else peer.index)
    if peer is not None:
        selection.succeed(peer, now)
        selection.release(peer)
    return picked


def _memory(pool: Pool) -> list[tuple[int, int, int, int]]:
    return [(peer.current_weight, peer.effective_weight, peer.fails, peer.conns) for peer in pool.peers]

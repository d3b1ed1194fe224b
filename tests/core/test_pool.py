"""The pool's promises, whatever happens: by hypothesis, over every algorithm."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbproxy.core.config import Address, Algorithm, AllDown, Backend, BackendState, Balance, Retry
from lbproxy.core.config import Pool as PoolConfig
from lbproxy.core.health import Health
from lbproxy.core.pool import Peer, Pool, Selection

KEYED = {Algorithm.HASH: "uri", Algorithm.CONSISTENT_HASH: "uri"}
NO_BACKUP = {
    Algorithm.IP_HASH,
    Algorithm.HASH,
    Algorithm.CONSISTENT_HASH,
    Algorithm.RANDOM,
    Algorithm.RANDOM_TWO,
    Algorithm.SOURCE_HASH,
}


def backend(index: int, weight: int = 1, **options: int | bool | BackendState) -> Backend:
    text = f"10.0.0.{index}:6443"
    return replace(Backend(Address(text, f"10.0.0.{index}", 6443), weight), **options)  # type: ignore[arg-type]


def make(algorithm: Algorithm, *backends: Backend, all_down: AllDown = AllDown.TRY, tries: int = 0) -> Pool:
    config = PoolConfig(
        "p", backends, Balance(algorithm, KEYED.get(algorithm, "")), all_down=all_down, retry=Retry(tries=tries)
    )
    return Pool(config, random.Random(1).randrange)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    algorithm = draw(st.sampled_from(list(Algorithm)))
    count = draw(st.integers(1, 5))
    backends = [
        backend(
            index,
            draw(st.integers(1, 6)),
            max_connections=draw(st.sampled_from([0, 0, 1, 3])),
            max_fails=draw(st.integers(0, 3)),
            backup=index > 0 and algorithm not in NO_BACKUP and draw(st.booleans()),
            state=draw(st.sampled_from([BackendState.READY, BackendState.READY, BackendState.MAINT])),
        )
        for index in range(count)
    ]
    return make(algorithm, *backends, all_down=draw(st.sampled_from(list(AllDown))), tries=draw(st.integers(0, 3)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["walk", "walk", "walk", "end", "fail", "health", "state", "time"]),
        st.integers(0, 1 << 30),
    ),
    max_size=80,
)


@given(pools(), STEPS)
@settings(max_examples=300, deadline=None)
def test_whatever_happens(pool: Pool, steps: list[tuple[str, int]]) -> None:
    """No peer twice in a walk, none over its limit, none the operator took out; and the counts add up."""
    now = 1000
    held: list[tuple[Selection, Peer, set[int]]] = []
    for step, number in steps:
        if step == "time":
            now += number % 30
        elif step == "walk":
            selection = pool.select(f"10.1.{number % 250}.{number % 7}", str(number % 50).encode())
            _pick(pool, selection, held, set(), now)
        elif step in ("end", "fail") and held:
            selection, peer, seen = held.pop(number % len(held))
            if step == "end":
                selection.succeed(peer, now)
                selection.release(peer)
            else:
                selection.fail(peer, now)
                _pick(pool, selection, held, seen, now)
        elif step == "health":
            health = list(Health)[number % 4]
            pool.set_health(number % len(pool.peers), health, clear_failures=health is Health.UP)
        elif step == "state":
            pool.set_state(number % len(pool.peers), list(BackendState)[number % 3])
        counted = Counter(peer.index for _selection, peer, _seen in held)
        for peer in pool.peers:
            assert peer.conns == counted[peer.index]
            assert 0 <= peer.effective_weight <= peer.weight
            assert peer.usable == (peer.state is BackendState.READY and peer.health in (Health.UNKNOWN, Health.UP))


def _pick(
    pool: Pool, selection: Selection, held: list[tuple[Selection, Peer, set[int]]], seen: set[int], now: int
) -> None:
    able = [
        peer
        for peer in pool.peers
        if peer.state is BackendState.READY
        and peer.index not in seen
        and not (peer.max_connections and peer.conns >= peer.max_connections)
    ]
    tries = pool.config.retry.tries or len(pool.peers)
    peer = selection.pick(now)
    if peer is None:
        assert len(seen) >= tries or not able or pool.config.all_down is AllDown.REJECT
        return
    assert peer in able
    assert len(seen) < tries
    if pool.config.all_down is AllDown.REJECT:
        assert peer.usable
    elif not peer.usable:
        assert not any(other.usable and other.eligible(selection.tried & ~peer.bit, now) for other in able)
    seen.add(peer.index)
    held.append((selection, peer, seen))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_round_robin_gives_each_its_exact_share_in_each_cycle(weights: list[int]) -> None:
    pool = make(Algorithm.ROUND_ROBIN, *(backend(index, weight) for index, weight in enumerate(weights)))
    for _ in range(3):
        picks: Counter[int] = Counter()
        for _ in range(sum(weights)):
            selection = pool.select()
            peer = selection.pick(0)
            assert peer is not None
            picks[peer.index] += 1
            selection.release(peer)
        assert [picks[index] for index in range(len(weights))] == weights


def _clients(pool: Pool) -> dict[str, int]:
    chosen = {}
    for number in range(600):
        client = f"10.0.1.{number}" if number < 256 else f"fd00::{number:x}"
        peer = pool.select(client).pick(0)
        assert peer is not None
        chosen[client] = peer.index
    return chosen


def test_source_hash_spreads_a_single_24_and_moves_only_who_must() -> None:
    pool = make(Algorithm.SOURCE_HASH, *(backend(index) for index in range(3)))
    before = _clients(pool)
    for client, index in before.items():
        assert pool.select(f"::ffff:{client}" if "." in client else client).pick(0) is pool.peers[index]
    share = Counter(index for client, index in before.items() if client.startswith("10.0.1."))
    assert all(64 <= count <= 107 for count in share.values()), share  # 85 ± 25 %
    pool.set_health(1, Health.DOWN)
    during = _clients(pool)
    assert all(during[client] == index for client, index in before.items() if index != 1)
    moved = Counter(during[client] for client, index in before.items() if index == 1)
    assert set(moved) == {0, 2}
    pool.set_health(1, Health.UP)
    assert _clients(pool) == before


def test_source_hash_respects_weights() -> None:
    share = Counter(_clients(make(Algorithm.SOURCE_HASH, backend(0, 3), backend(1, 1))).values())
    assert 0.68 < share[0] / 600 < 0.82


def test_first_fills_in_order() -> None:
    pool = make(Algorithm.FIRST, backend(0, max_connections=2), backend(1, max_connections=1), backend(2))
    picked = [pool.select().pick(0) for _ in range(5)]
    assert [peer.index for peer in picked if peer is not None] == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("algorithm", [Algorithm.RANDOM, Algorithm.RANDOM_TWO])
def test_random_draws_by_weight(algorithm: Algorithm) -> None:
    pool = make(algorithm, backend(0, 3), backend(1, 1), backend(2, 1))
    picks: Counter[int] = Counter()
    for _ in range(5000):
        selection = pool.select()
        peer = selection.pick(0)
        assert peer is not None
        picks[peer.index] += 1
        selection.release(peer)
    if algorithm is Algorithm.RANDOM:
        assert 0.57 < picks[0] / 5000 < 0.63
    assert min(picks.values()) > 500


def test_random_two_prefers_the_less_connected() -> None:
    pool = make(Algorithm.RANDOM_TWO, backend(0), backend(1))
    for _ in range(10):
        pool.select().pick(0)
    assert abs(pool.peers[0].conns - pool.peers[1].conns) <= 1


@pytest.mark.parametrize(
    ("healths", "expected"),
    [
        ((Health.DOWN, Health.NOT_READY, Health.DOWN), 1),
        ((Health.DOWN, Health.DOWN, Health.DOWN), 0),
        ((Health.NOT_READY, Health.NOT_READY, Health.UP), 2),
    ],
)
def test_the_last_resort_prefers_who_is_alive(healths: tuple[Health, ...], expected: int) -> None:
    pool = make(Algorithm.ROUND_ROBIN, *(backend(index) for index in range(3)))
    for index, health in enumerate(healths):
        pool.set_health(index, health)
    peer = pool.select().pick(0)
    assert peer is not None
    assert peer.index == expected


def test_reject_means_nobody() -> None:
    pool = make(Algorithm.LEAST_CONN, backend(0), backend(1), all_down=AllDown.REJECT)
    for index in range(2):
        pool.set_health(index, Health.DOWN)
    assert pool.select().pick(0) is None


def test_a_good_check_refutes_live_traffic() -> None:
    pool = make(Algorithm.ROUND_ROBIN, backend(0), backend(1))
    selection = pool.select()
    peer = selection.pick(0)
    assert peer is not None
    selection.fail(peer, 0)
    assert not peer.eligible(0, 0)
    pool.set_health(peer.index, Health.UP, clear_failures=True)
    assert peer.eligible(0, 0)
    assert peer.effective_weight == peer.weight

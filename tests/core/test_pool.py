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
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool, Selection

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
                well, anybody = selection.another(now), selection.another(now, well=False)
                selection.fail(peer, now)
                before = len(held)
                _pick(pool, selection, held, seen, now)
                assert anybody is (len(held) > before)
                assert not well or held[-1][1].usable
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
        and peer.health is not Health.DOWN
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


def test_the_dead_are_not_dialled() -> None:
    """Whoever asks is refused at once instead of waiting for three connects to time out."""
    pool = make(Algorithm.ROUND_ROBIN, backend(0), backend(1))
    for index in range(2):
        pool.set_health(index, Health.DOWN)
    assert pool.select().pick(0) is None


def test_failing_open_although_the_pool_rejects() -> None:
    pool = make(Algorithm.ROUND_ROBIN, backend(0), backend(1), all_down=AllDown.REJECT)
    pool.set_health(0, Health.NOT_READY)
    pool.set_health(1, Health.DOWN)
    assert pool.select().pick(0) is None
    pool.fail_open = True
    picked = pool.select().pick(0)
    assert picked is pool.peers[0]


# -- slow start ------------------------------------------------------------------------------------------------


def returned(algorithm: Algorithm, seconds: float = 60) -> Pool:
    """Three backends; the last one comes back at second 1000."""
    config = PoolConfig(
        "p",
        tuple(backend(index) for index in range(3)),
        Balance(algorithm, KEYED.get(algorithm, "")),
        slow_start=seconds,
    )
    pool = Pool(config, random.Random(1).randrange)
    for index in range(3):
        pool.set_health(index, Health.UP, now=900)
    pool.set_health(2, Health.DOWN, now=950)
    pool.set_health(2, Health.UP, now=1000)
    return pool


def share(pool: Pool, now: int, picks: int = 3000) -> float:
    """The last backend's part of the picks at one instant; each is over at once."""
    got = 0
    for _ in range(picks):
        selection = pool.select("10.0.0.1")
        peer = selection.pick(now)
        assert peer is not None
        got += peer.index == 2
        selection.release(peer)
    return got / picks


@pytest.mark.parametrize("algorithm", [Algorithm.ROUND_ROBIN, Algorithm.RANDOM])
def test_the_share_of_one_that_comes_back_grows(algorithm: Algorithm) -> None:
    pool = returned(algorithm)
    for second in (0, 10, 20, 30, 40, 50, 59):
        assert share(pool, 1000 + second) == pytest.approx((second + 1) / 61 / 3, abs=0.04), second
    assert share(pool, 1060) == pytest.approx(1 / 3, abs=0.04)
    assert pool.starting == {}


@pytest.mark.parametrize("algorithm", [Algorithm.LEAST_CONN, Algorithm.RANDOM_TWO])
def test_connections_that_stay_grow_with_it(algorithm: Algorithm) -> None:
    """The least connected is not flooded with all that comes: it has at most its growing share of the connections."""
    pool = returned(algorithm)
    for peer in pool.peers[:2]:
        peer.conns = 1000
    for second in range(60):
        for _ in range(20):
            pool.select().pick(1000 + second)
        allowed = 1100 * (second + 1) / 61
        assert pool.peers[2].conns <= allowed + 20, second
    assert pool.peers[2].conns > 500


@pytest.mark.parametrize("algorithm", [Algorithm.SOURCE_HASH, Algorithm.CONSISTENT_HASH])
def test_hashes_stay_where_they_are(algorithm: Algorithm) -> None:
    pool = returned(algorithm)
    before = {key: pool.select(key, key.encode()).pick(1000) for key in map(str, range(50))}
    assert {key: pool.select(key, key.encode()).pick(1070) for key in before} == before


def test_nobody_is_held_back_who_is_the_only_one() -> None:
    pool = returned(Algorithm.ROUND_ROBIN)
    for index in range(2):
        pool.set_health(index, Health.DOWN, now=1001)
    assert share(pool, 1001, 10) == 1.0
    pool.set_health(2, Health.DOWN, now=1002)
    pool.set_health(0, Health.UP, now=1003)  # the first to come back from an outage of all
    assert pool.peers[0] not in pool.starting


def test_no_slow_start_at_the_start() -> None:
    config = PoolConfig("p", tuple(backend(index) for index in range(3)))
    pool = Pool(config, random.Random(1).randrange)
    for index in range(3):
        pool.set_health(index, Health.UP, now=5)
    assert pool.starting == {}


def test_slow_start_can_be_off() -> None:
    assert returned(Algorithm.ROUND_ROBIN, 0).starting == {}


def test_a_given_peer_is_taken_and_counted() -> None:
    pool = make(Algorithm.ROUND_ROBIN, backend(0), backend(1))
    selection = pool.select()
    selection.take(pool.peers[1])
    assert pool.peers[1].conns == 1
    assert selection.pick(0) is pool.peers[0]
    assert selection.pick(0) is None


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

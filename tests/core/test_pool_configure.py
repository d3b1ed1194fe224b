"""What a reload makes of a pool: peers that stay are the same ones, and the walks under way end well."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.config import Address, Algorithm, Backend, BackendState, Balance, Pool
from lbproxy.core.health import Health
from lbproxy.core.pool import Pool as RunningPool
from lbproxy.core.pool import Selection


def config(*numbers: int, algorithm: Algorithm = Algorithm.ROUND_ROBIN, weight: int = 1) -> Pool:
    backends = tuple(Backend(Address(f"10.0.0.{n}:80", f"10.0.0.{n}", 80), weight=weight) for n in numbers)
    return Pool("p", backends, balance=Balance(algorithm))


def running(pool: Pool) -> RunningPool:
    return RunningPool(pool, lambda most: most // 2)


def names(pool: RunningPool, count: int) -> list[str]:
    picked = []
    for _ in range(count):
        selection = pool.select("192.0.2.1")
        peer = selection.pick(100)
        assert peer is not None
        picked.append(peer.address.host[-1])
        selection.release(peer)
    return picked


def test_a_backend_that_stays_is_the_same_peer() -> None:
    pool = running(config(1, 2, 3))
    one, two, three = pool.peers
    pool.set_health(2, Health.DOWN)
    two.stats.total = 7
    assert pool.configure(config(3, 2, 4)) == [one]
    assert pool.peers[:2] == [three, two]
    assert [peer.index for peer in pool.peers] == [0, 1, 2]
    assert three.health is Health.DOWN
    assert two.stats.total == 7
    assert one.removed
    assert names(pool, 4) == ["2", "4", "2", "4"]


def test_new_weights_and_states_hold_at_once() -> None:
    pool = running(config(1, 2))
    names(pool, 3)
    new = config(1, 2)
    first = replace(new.backends[0], weight=2)
    pool.configure(replace(new, backends=(first, new.backends[1])))
    assert sorted(names(pool, 6)) == ["1", "1", "1", "1", "2", "2"]
    pool.configure(replace(new, backends=(replace(first, state=BackendState.DRAIN), new.backends[1])))
    assert names(pool, 3) == ["2", "2", "2"]


def test_the_order_goes_on_if_nothing_has_changed() -> None:
    pool = running(config(1, 2, 3))
    assert names(pool, 2) == ["1", "2"]
    pool.configure(replace(config(1, 2, 3), drain_timeout=5.0))
    assert names(pool, 2) == ["3", "1"]


def test_one_that_comes_back_to_its_connections_is_the_same() -> None:
    pool = running(config(1, 2))
    selection = pool.select("192.0.2.1")
    peer = selection.pick(100)
    assert peer is pool.peers[0]
    assert pool.configure(config(2)) == [peer]
    pool.configure(config(2, 1))
    assert pool.peers[1] is peer
    assert peer.usable
    selection.release(peer)
    assert peer.conns == 0


def test_a_pool_that_is_dissolved_has_nobody_left_to_pick() -> None:
    pool = running(config(1, 2))
    assert len(pool.dissolve()) == 2
    assert pool.select("192.0.2.1").pick(100) is None


NUMBERS = st.lists(st.integers(1, 6), min_size=1, max_size=6, unique=True)
HASHES = (Algorithm.IP_HASH, Algorithm.SOURCE_HASH)
OTHERS = (Algorithm.ROUND_ROBIN, Algorithm.LEAST_CONN, Algorithm.RANDOM, Algorithm.RANDOM_TWO, Algorithm.FIRST)


@given(
    st.lists(st.tuples(NUMBERS, st.sampled_from(HASHES + OTHERS), st.integers(1, 3)), min_size=2, max_size=6),
    st.lists(st.sampled_from(["begin", "fail", "release"]), max_size=40),
)
def test_walks_survive_any_reloads(steps: list[tuple[list[int], Algorithm, int]], actions: list[str]) -> None:
    """Whatever is reloaded between their picks: nobody twice in a walk, nobody who is gone, no count that is lost."""
    numbers, algorithm, weight = steps[0]
    pool = running(config(*numbers, algorithm=algorithm, weight=weight))
    walks: list[tuple[Selection, list[object]]] = []
    for turn, action in enumerate(actions):
        if action == "begin" or not walks:
            selection = pool.select("192.0.2.1")
            walks.append((selection, []))
        else:
            selection, _ = walks[turn % len(walks)]
        tried = walks[-1][1] if action == "begin" else next(seen for walk, seen in walks if walk is selection)
        peer = selection.pick(100 + turn)
        if peer is not None:
            assert peer not in tried
            assert not peer.removed
            tried.append(peer)
            if action == "fail":
                selection.fail(peer, 100 + turn)
            else:
                selection.release(peer)
        numbers, algorithm, weight = steps[turn % len(steps)]
        pool.configure(config(*numbers, algorithm=algorithm, weight=weight))
        assert [peer.index for peer in pool.peers] == list(range(len(numbers)))
        assert all(peer.conns == 0 for peer in pool.peers)

"""Workers that count together: least_conn and limits hold over all of them, and a dead one leaves nothing behind."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lbproxy.core.board import ABSENT, BY_CONNECTIONS, Board, is_shared
from lbproxy.core.config import Algorithm
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool, Selection
from tests.core.test_pool import backend, make

ROWS = 4
COLUMNS = 5  # two listeners', three backends'


def workers(pools: list[Pool]) -> memoryview:
    cells = memoryview(bytearray(4 * ROWS * COLUMNS)).cast("i")
    for cell in range(ROWS * COLUMNS):
        cells[cell] = ABSENT
    for row, pool in enumerate(pools):
        pool.share(Board(cells, COLUMNS, row), 2)
    return cells


STEPS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60)  # which worker, and whether it picks


@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), STEPS)
def test_least_conn_is_the_least_of_all_workers_together(weights: list[int], steps: list[tuple[int, bool]]) -> None:
    backends = [backend(index, weight) for index, weight in enumerate(weights)]
    pools = [make(Algorithm.LEAST_CONN, *backends) for _ in range(3)]
    workers(pools)
    open_: list[list[tuple[Selection, Peer]]] = [[], [], []]
    total: Counter[int] = Counter()
    for worker, picks in steps:
        if picks:
            selection = pools[worker].select()
            peer = selection.pick(0)
            assert peer is not None
            assert total[peer.index] / peer.weight == min(total[index] / weight for index, weight in enumerate(weights))
            total[peer.index] += 1
            open_[worker].append((selection, peer))
        elif open_[worker]:
            selection, peer = open_[worker].pop()
            total[peer.index] -= 1
            selection.release(peer)


@given(st.sampled_from([Algorithm.ROUND_ROBIN, *BY_CONNECTIONS]), STEPS)
def test_max_connections_is_a_limit_over_all_workers(algorithm: Algorithm, steps: list[tuple[int, bool]]) -> None:
    backends = [backend(1, max_connections=2), backend(2, max_connections=3)]
    pools = [make(algorithm, *backends) for _ in range(3)]
    workers(pools)
    assert is_shared(pools[0].config)
    open_: list[tuple[Selection, Peer]] = []
    for worker, picks in steps:
        if picks:
            selection = pools[worker].select()
            peer = selection.pick(0)
            assert (peer is None) == (len(open_) == 5)
            if peer is not None:
                open_.append((selection, peer))
                counts = Counter(each.index for _selection, each in open_)
                assert counts[0] <= 2
                assert counts[1] <= 3
        elif open_:
            selection, peer = open_.pop(0)
            selection.release(peer)


def test_a_worker_that_ended_leaves_its_places_to_the_others() -> None:
    pools = [make(Algorithm.ROUND_ROBIN, backend(1, max_connections=1)) for _ in range(2)]
    cells = workers(pools)
    assert pools[0].select().pick(0) is not None
    assert pools[1].select().pick(0) is None
    for cell in range(COLUMNS):
        cells[cell] = ABSENT
    assert pools[1].select().pick(0) is not None


def test_who_takes_no_connections_is_counted_and_not_waited_for() -> None:
    cells = workers([])
    one, two, three = (Board(cells, COLUMNS, row) for row in range(3))
    assert one.least(0) == ABSENT
    one.put(0, 7)
    two.put(0, 5)
    three.put(0, ~3)
    assert one.least(0) == 5
    assert two.least(0) == 7
    assert one.elsewhere(0) == 8
    assert three.elsewhere(0) == 12
    assert one.elsewhere(1) == 0

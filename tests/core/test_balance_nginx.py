"""Decisions that a real nginx 1.22.1 was seen to make, and the walks that its rules prescribe."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lbproxy.core.balance.consistent_hash import points_of
from lbproxy.core.config import Address, Algorithm, AllDown, Backend, Balance
from lbproxy.core.config import Pool as PoolConfig
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool

SEED = ("10.0.1.10:8080", "10.0.1.11:8080", "10.0.1.12:8080")
VECTORS: dict[str, list[Any]] = json.loads(Path(__file__).with_name("nginx_vectors.json").read_text())


def pool(algorithm: Algorithm, *backends: str | dict[str, Any], key: str = "") -> Pool:
    """A pool that behaves as nginx: no last resort."""
    made = []
    for backend in backends:
        options = dict(backend) if isinstance(backend, dict) else {"address": backend}
        text = options.pop("address")
        host, _, port = text.rpartition(":")
        made.append(Backend(Address(text, host or text, int(port) if port.isdigit() else 0), **options))
    config = PoolConfig("p", tuple(made), Balance(algorithm, key), all_down=AllDown.REJECT)
    return Pool(config, random.Random(7).randrange)


def letters(pool_: Pool, count: int, *, hold: bool = False) -> str:
    """The picks of `count` walks, as letters in the order of the configuration."""
    text = ""
    for _ in range(count):
        selection = pool_.select()
        peer = selection.pick(0)
        assert peer is not None
        text += "abcdef"[peer.index]
        if not hold:
            selection.succeed(peer, 0)
            selection.release(peer)
    return text


def weights(*values: int) -> list[dict[str, Any]]:
    return [{"address": f"10.0.0.{index}:1", "weight": value} for index, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((5, 1, 1), "aabacaa" * 3),
        ((3, 2, 1), "abacba" * 3),
        ((4, 2), "aba" * 4),
        ((2, 3), "babab" * 3),
        ((1, 2, 3), "cbacbc" * 3),
        ((1, 1, 1), "abc" * 5),
    ],
)
def test_smooth_weighted_round_robin(values: tuple[int, ...], expected: str) -> None:
    assert letters(pool(Algorithm.ROUND_ROBIN, *weights(*values)), len(expected)) == expected


def test_current_weights_after_each_step() -> None:
    p = pool(Algorithm.ROUND_ROBIN, *weights(5, 1, 1))
    seen = []
    for _ in range(7):
        letters(p, 1)
        p.rewind()  # picks made in advance have moved the weights on
        seen.append(tuple(peer.current_weight for peer in p.peers))
    assert seen == [(-2, 1, 1), (-4, 2, 2), (1, -4, 3), (-1, -3, 4), (4, -2, -2), (2, -1, -1), (0, 0, 0)]


def test_failures_lower_the_effective_weight_and_max_fails_excludes() -> None:
    backends = weights(5, 3, 2)
    backends[0]["max_fails"] = 3
    p = pool(Algorithm.ROUND_ROBIN, *backends)
    picks, effective, fails = [], [], []
    for request in range(1, 13):
        selection = p.select()
        tried = ""
        while True:
            peer = selection.pick(100)
            assert peer is not None
            tried += "abc"[peer.index]
            if peer.index == 0 and request <= 4:
                selection.fail(peer, 100)
                continue
            selection.succeed(peer, 100)
            selection.release(peer)
            break
        picks.append(tried)
        effective.append(p.peers[0].effective_weight)
        fails.append(p.peers[0].fails)
    assert picks == ["ab", "c", "b", "ab", "c", "a", "b", "a", "c", "a", "b", "a"]
    assert effective[:6] == [4, 5, 5, 4, 5, 5]
    assert fails[:6] == [1, 1, 1, 2, 2, 2]
    assert fails[-1] == 2  # a success in the same window does not clear it


def test_the_backup_tier_serves_when_no_primary_can() -> None:
    p = pool(
        Algorithm.ROUND_ROBIN,
        {"address": "p:1", "max_fails": 1},
        {"address": "q:1", "max_fails": 2},
        {"address": "b:1", "weight": 2, "backup": True},
        {"address": "c:1", "backup": True},
    )
    walks = []
    for _ in range(8):
        selection = p.select()
        walk = ""
        while (peer := selection.pick(1000)) is not None:
            walk += "pqBC"[peer.index]
            if peer.index > 1:
                selection.succeed(peer, 1000)
                selection.release(peer)
                break
            selection.fail(peer, 1000)
        walks.append(walk)
    assert walks[:2] == ["pqB", "qB"] or walks[:2] == ["pqB", "qC"]
    assert "".join(walk[-1] for walk in walks) in ("BCBBCBBC", "BBCBBCBB")


def test_one_probe_per_fail_timeout_and_a_second() -> None:
    p = pool(Algorithm.ROUND_ROBIN, {"address": "a:1", "fail_timeout": 10.0}, "b:1")
    selection = p.select()
    peer = selection.pick(100)
    assert peer is p.peers[0]
    selection.fail(peer, 100)
    when = [now for now in range(100, 140) if _picks_first(p, now)]
    assert when == [111, 122, 133]


def _picks_first(p: Pool, now: int) -> bool:
    """Whether the failed backend is tried at `now`; if so it fails again."""
    for _ in range(4):  # its effective weight is 0 after the failure: the others are picked first
        selection = p.select()
        peer = selection.pick(now)
        assert peer is not None
        if peer.index == 0:
            selection.fail(peer, now)
            return True
        selection.release(peer)
    return False


@pytest.mark.parametrize(("client", "_hashes", "expected"), VECTORS["ip_hash"])
def test_ip_hash_vectors(client: str, _hashes: list[int], expected: str) -> None:
    peer = pool(Algorithm.IP_HASH, *SEED).select(client).pick(0)
    assert peer is not None
    assert peer.address.text == expected


@pytest.mark.parametrize(
    ("client", "expected"),
    [("10.0.1.9", 2), ("192.168.1.7", 2), ("172.16.5.5", 2), ("0.0.0.0", 0), ("fd00::1", 2), ("::ffff:10.0.1.9", 2)],
)
def test_ip_hash_steps_over_a_backend_that_has_failed(client: str, expected: int) -> None:
    p = pool(Algorithm.IP_HASH, *SEED)
    p.peers[1].fails = 1
    p.peers[1].checked = 100
    peer = p.select(client).pick(100)
    assert peer is not None
    assert peer.index == expected


def test_ip_hash_goes_on_where_it_stopped() -> None:
    selection = pool(Algorithm.IP_HASH, *SEED).select("10.0.1.1")
    first = selection.pick(0)
    assert first is not None
    selection.fail(first, 0)
    second = selection.pick(0)
    assert second is not None
    assert (first.index, second.index) == (1, 2)


@pytest.mark.parametrize(("key", "expected"), VECTORS["hash"])
def test_hash_vectors(key: str, expected: str) -> None:
    peer = pool(Algorithm.HASH, *SEED, key="uri").select("", key.encode()).pick(0)
    assert peer is not None
    assert peer.address.text == expected


@pytest.mark.parametrize(("key", "expected"), VECTORS["hash_consistent"])
def test_consistent_hash_vectors(key: str, expected: str) -> None:
    peer = pool(Algorithm.CONSISTENT_HASH, *SEED, key="uri").select("", key.encode()).pick(0)
    assert peer is not None
    assert peer.address.text == expected


@pytest.mark.parametrize(
    ("algorithm", "key", "walk"),
    [
        (Algorithm.HASH, b"10.0.1.22", [1, 0]),
        (Algorithm.HASH, b"/api/v1/pods", [1, 0]),
        (Algorithm.HASH, b"x", [1, 0]),
        (Algorithm.CONSISTENT_HASH, b"10.0.1.22", [1, 0]),
        (Algorithm.CONSISTENT_HASH, b"/api/v1/pods", [1, 0]),
    ],
)
def test_hash_retries(algorithm: Algorithm, key: bytes, walk: list[int]) -> None:
    selection = pool(algorithm, *SEED, key="uri").select("", key)
    seen = []
    for _ in walk:
        peer = selection.pick(0)
        assert peer is not None
        seen.append(peer.index)
        selection.fail(peer, 0)
    assert seen == walk


def test_ketama_points() -> None:
    assert [f"{point:08x}" for point in points_of(SEED[0], 1)[:3]] == ["2200cd28", "0b910e0e", "37c9f5c2"]
    assert [f"{point:08x}" for point in points_of(SEED[1], 1)[:3]] == ["cdc2a616", "795c8446", "aa56c96b"]
    assert [f"{point:08x}" for point in points_of(SEED[2], 1)[:3]] == ["26f51d15", "ee0a1a9e", "d7868ad1"]
    ring = sorted(point for text in SEED for point in points_of(text, 1))
    assert (len(ring), ring[0], ring[-1]) == (480, 3443622, 4281187199)


def test_least_conn_with_connections_held() -> None:
    p = pool(Algorithm.LEAST_CONN, *weights(1, 2, 1))
    selections = []
    picks = ""
    for _ in range(8):
        selection = p.select()
        peer = selection.pick(0)
        assert peer is not None
        selections.append((selection, peer))
        picks += "abc"[peer.index]
    assert picks == "bacbcabb"
    for selection, peer in selections[1:3]:
        selection.release(peer)
    assert letters(p, 4, hold=True) == "acbc"


def test_least_conn_without_any() -> None:
    assert letters(pool(Algorithm.LEAST_CONN, *weights(1, 2, 1)), 8) == "bacbbacb"


def test_a_single_backend_is_never_put_aside() -> None:
    p = pool(Algorithm.ROUND_ROBIN, "a:1")
    for _ in range(5):
        selection = p.select()
        peer = selection.pick(0)
        assert isinstance(peer, Peer)
        selection.fail(peer, 0)
        assert selection.pick(0) is None

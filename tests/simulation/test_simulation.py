"""Thousands of schedules of faults, each decided by its seed, and copies of the balancer that are broken on purpose.

LBPROXY_SIMULATION_SEEDS=FROM-TO runs others than usual; a promise that is broken says how to run that schedule alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import astuple, replace

import pytest

from lbproxy.core.config import Backend, BackendState
from lbproxy.core.health import Health
from lbproxy.core.peer import Peer
from lbproxy.core.pool import Pool, Selection
from lbproxy.core.termination import Termination
from lbproxy.core.watch.stream import WatchStream
from lbproxy.dataplane.backend import BackendConnection
from lbproxy.dataplane.exchange import Exchange
from lbproxy.dataplane.exchange_state import ExchangeState
from lbproxy.dataplane.leaving import Leaving
from lbproxy.dataplane.listener import Listener
from lbproxy.dataplane.rebalancing import Balance
from lbproxy.dataplane.watching import Watch
from tests.simulation.network import Violation
from tests.simulation.schedule import MANY, Outcome, Simulation, simulate

BLOCK = 100  # schedules of one test
FIRST, LAST = map(int, os.environ.get("LBPROXY_SIMULATION_SEEDS", "0-2000").split("-"))
MUTANT_SEEDS = 150  # schedules within which a broken copy must be found

Break = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("first", range(FIRST, LAST, BLOCK))
def test_no_schedule_breaks_a_promise(first: int) -> None:
    outcomes = _simulate_all(range(first, min(first + BLOCK, LAST)))
    if len(outcomes) < BLOCK:
        return
    sums = Outcome(*map(sum, zip(*map(astuple, outcomes), strict=True)))
    # What never happens breaks no promise: see that it does.
    assert sums.requests > 50 * len(outcomes)
    assert sums.events > 50 * len(outcomes)
    assert sums.faults > len(outcomes)
    assert sums.resumed > len(outcomes) / 2
    assert sums.retried > len(outcomes) / 4
    assert sums.reloads > len(outcomes) / 2
    assert sums.turned_away > 0
    assert sums.cut > 0
    assert sums.drained > 0


def test_hundreds_of_clients() -> None:
    outcome = simulate(0, clients=300)
    assert outcome.requests > 1500
    assert outcome.events > 30_000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_moves_no_streams_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Balance, "look", lambda _: None)
    with pytest.raises(Violation, match="unevenly"):
        simulate(2, clients=MANY)


def test_a_seed_tells_the_same_story_each_time() -> None:
    stories = []
    for _ in range(2):
        simulation = Simulation(7)
        outcome = simulation.run()
        stories.append((outcome, list(simulation.world.story), simulation.world.faults))
    assert stories[0] == stories[1]


# -- copies that are broken on purpose ---------------------------------------------------------------------------


def sends_any_method_twice(patch: pytest.MonkeyPatch) -> None:
    def replayable(self: ExchangeState) -> bool:
        return self.block is not None and not self.block.length and not self.block.upgrade

    patch.setattr(ExchangeState, "_replayable", replayable)


def always_says_retry_after(patch: pytest.MonkeyPatch) -> None:
    original = Exchange._own_answer

    def own_answer(
        self: Exchange, code: int, message: str, termination: Termination, *, not_sent: bool = False
    ) -> None:
        original(self, 503, message, termination, not_sent=True)

    patch.setattr(Exchange, "_own_answer", own_answer)


def never_retries(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExchangeState, "_replayable", lambda self: False)


def resumes_one_event_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WatchStream, "resume_from", property(_later(WatchStream.resume_from.fget, 1)))  # type: ignore[attr-defined]


def resumes_one_event_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WatchStream, "resume_from", property(_later(WatchStream.resume_from.fget, -1)))  # type: ignore[attr-defined]


def _later(get: Callable[[WatchStream], bytes | None], by: int) -> Callable[[WatchStream], bytes | None]:
    def resume_from(self: WatchStream) -> bytes | None:
        version = get(self)
        return None if version is None else b"%d" % (int(version) + by)

    return resume_from


def never_resumes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Watch, "can_resume", lambda self: False)


def forwards_half_events(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WatchStream, "_forwardable", lambda self, pos, whole, end: end)


def keeps_what_is_connected_to_the_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leaving, "cut_off", lambda *_: 0)


def does_not_see_that_nobody_is_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leaving, "look", lambda *_: None)


def has_nobody_leave(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leaving, "empty", lambda *_: 0)


def lets_everybody_in(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Listener, "admits", lambda _: True)


def forgets_drains_at_a_reload(patch: pytest.MonkeyPatch) -> None:
    original = Peer.configure

    def configure(self: Peer, index: int, config: Backend) -> None:
        original(self, index, replace(config, state=BackendState.READY))

    patch.setattr(Peer, "configure", configure)


def takes_not_ready_for_ready(patch: pytest.MonkeyPatch) -> None:
    original = Pool.set_health

    def set_health(self: Pool, index: int, health: Health, clear: bool = False, now: int = 0) -> None:
        original(self, index, Health.UP if health is Health.NOT_READY else health, clear, now)
        self.peers[index].health = health

    patch.setattr(Pool, "set_health", set_health)


def forgets_to_count_down(patch: pytest.MonkeyPatch) -> None:
    original = Selection.fail

    def fail(self: Selection, peer: Peer, now: int) -> None:
        original(self, peer, now)
        peer.conns += 1

    patch.setattr(Selection, "fail", fail)


def leaves_connections_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExchangeState, "_detach", lambda self, backend: setattr(self, "_backend", None))


def ends_what_is_cut_as_if_it_were_whole(patch: pytest.MonkeyPatch) -> None:
    original = BackendConnection.close

    def close(self: BackendConnection, *, reset: bool = False) -> None:
        client = self.client
        original(self, reset=reset)
        if client is not None and not self.client:
            client.write(b"0\r\n\r\n")

    def abort(self: Exchange, termination: object, *, reset: bool) -> None:
        self.write(b"0\r\n\r\n")
        self.on_response_end() if self._backend is not None else None

    patch.setattr(BackendConnection, "close", close)
    patch.setattr(Exchange, "_abort", abort)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "break_it",
    [
        sends_any_method_twice,
        always_says_retry_after,
        never_retries,
        resumes_one_event_late,
        resumes_one_event_early,
        never_resumes,
        forwards_half_events,
        keeps_what_is_connected_to_the_dead,
        does_not_see_that_nobody_is_left,
        has_nobody_leave,
        lets_everybody_in,
        forgets_drains_at_a_reload,
        takes_not_ready_for_ready,
        forgets_to_count_down,
        leaves_connections_open,
        ends_what_is_cut_as_if_it_were_whole,
    ],
)
def test_a_broken_balancer_is_found(break_it: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    with pytest.raises(Violation, match=r"^seed \d+: "):
        _simulate_all(range(MUTANT_SEEDS))


def _simulate_all(seeds: Iterable[int]) -> list[Outcome]:
    """With many clients now and then."""
    return [simulate(seed, 100 if seed % 200 == 199 else 0) for seed in seeds]

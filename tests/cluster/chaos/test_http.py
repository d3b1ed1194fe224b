"""lbproxy in http mode: what clients may see when masters die.

Each test is one scenario with everybody at work: two kubectls (get, create, get -w, rollout status), three Python
libraries (watch, LISTs, creations), two controller-managers and two schedulers. The counting is that of the comparison
with other balancers (`python -m tests.cluster.chaos`).
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.cluster.balancer import until
from tests.cluster.chaos import audit
from tests.cluster.chaos.arena import Arena
from tests.cluster.chaos.faults import ETCD_AWAY, Scenario, scenarios
from tests.cluster.chaos.herd import Herd
from tests.cluster.chaos.outage import Outage
from tests.cluster.chaos.outcome import READS, WRITES, Outcome
from tests.cluster.chaos.plane import ChaosPlane
from tests.cluster.control_plane import MASTERS

pytestmark = pytest.mark.cluster

CONTENDER = "lbproxy-http"
IN_FLIGHT = 2  # mutations that may have been at a killed master
DRAIN = 5  # seconds
HERD = 300  # watchers
SLOWLY = 40  # watches and lists a second


def outcome_of(place: Arena, scenario: Scenario | str) -> Outcome:
    scenario = scenarios()[scenario] if isinstance(scenario, str) else scenario
    outcome = place.round(scenario)
    print(f"{scenario.name}: {outcome}")
    return outcome


def assert_nothing_noticed(outcome: Outcome) -> None:
    """By readers, watchers and leaders: no error, every event once and in order."""
    assert outcome.errors(*READS) == 0
    assert outcome.errors("watch", "rollout") == 0
    assert [(one.missed, one.doubled, one.backwards) for one in outcome.watchers.values()] == [(0, 0, 0)] * 5
    assert outcome.leaders_lost == outcome.managers_ended == outcome.deaf == 0
    assert_mutations_once(outcome)


def assert_mutations_once(outcome: Outcome) -> None:
    assert outcome.mutations.sent > 0
    assert outcome.mutations.doubled == outcome.mutations.lost == 0


def test_calm(place: Arena) -> None:
    """The control: what is counted when nothing happens is nothing."""
    outcome = outcome_of(place, "calm")
    assert_nothing_noticed(outcome)
    assert outcome.lists == {}
    assert outcome.errors(*WRITES) == 0


def test_two_masters_are_killed(place: Arena) -> None:
    """A mutation that a dying master is executing fails: whether it was executed is known to nobody, so nobody may
    send it again. There are two kills, and few calls are under way at one instant."""
    outcome = outcome_of(place, "kill")
    assert_nothing_noticed(outcome)
    assert outcome.lists == {}
    assert outcome.errors(*WRITES) <= IN_FLIGHT


def test_a_master_goes_dark(place: Arena) -> None:
    """Found out and cut within 5 s; calls that hung at it are slow, and none of its watches ends."""
    outcome = outcome_of(place, "dark")
    assert_nothing_noticed(outcome)
    assert outcome.lists == {}
    assert outcome.trouble <= 5
    assert outcome.lease_gap < 10


def test_a_master_is_frozen(place: Arena) -> None:
    """Its kernel still answers for it: 7 s."""
    outcome = outcome_of(place, "frozen")
    assert_nothing_noticed(outcome)
    assert outcome.lists == {}
    assert outcome.trouble <= 7
    assert outcome.lease_gap < 10


@pytest.mark.parametrize("name", ["rolling-delay", "rolling"])
def test_a_rolling_restart(place: Arena, name: str) -> None:
    """All three within a minute: an idle watch knows no version that the last of them still knows, so LISTs are due."""
    outcome = outcome_of(place, name)
    assert_nothing_noticed(outcome)
    assert outcome.errors(*WRITES) == 0


def test_reloads_during_a_rolling_restart(place: Arena) -> None:
    before = place.reloads()
    with place.reloading():
        outcome = outcome_of(place, "rolling-delay")
    assert_nothing_noticed(outcome)
    assert outcome.errors(*WRITES) == 0
    assert place.reloads() > before + 30


def test_etcd_is_away(place: Arena) -> None:
    """No master can work, and none is dead: errors are the masters' own, watches live, and all is well again soon."""
    outcome = outcome_of(place, "etcd")
    assert_mutations_once(outcome)
    assert outcome.errors("watch", "rollout") == 0
    assert [(one.missed, one.doubled) for one in outcome.watchers.values()] == [(0, 0)] * 5
    assert outcome.trouble <= ETCD_AWAY + 10


def test_a_master_is_slow(place: Arena) -> None:
    """It waits for its etcd: it is not ready, and not dead, so it gets nothing new, and what it serves is not cut."""
    before = len(place.log())
    outcome = outcome_of(place, "slow")
    assert_nothing_noticed(outcome)
    assert outcome.lists == {}
    assert outcome.errors(*WRITES) == 0
    until(lambda: len(place.verdicts(before)) > 1, "it is ready again", 10)
    assert place.verdicts(before) == ["not_ready", "up"]
    assert place.ended(before) == []
    assert outcome.trouble <= 15  # of 25


def test_all_masters_are_killed(place: Arena) -> None:
    """Who asks meanwhile is refused at once and may come back, and so does everybody."""
    outage = Outage(place.contender.front, place.serves)
    outcome = outcome_of(place, replace(scenarios()["all"], run=outage.run))
    print(f"refused in {max(one.seconds for one in outage.refusals):.3f} s, back after {outage.back:.1f} s")
    assert all(
        one.answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in one.answer for one in outage.refusals
    )
    assert max(one.seconds for one in outage.refusals) <= 0.1
    assert outage.back <= 1
    assert outcome.recovered
    assert outcome.deaf == 0
    assert_mutations_once(outcome)


def test_a_herd_comes_back(place: Arena) -> None:
    """After an outage watches and lists reach the masters at a bounded rate, and all of them get there."""
    herd = Herd(place.plane, place.contender.front, "herd-all", HERD)
    with place.configured(f"http: {{recovery_rate: {SLOWLY}}}", before="admin"), herd.running():
        killed = time.time()
        scenarios()["all"].run(place.plane)
        until(lambda: all(one.watching for one in herd.watchers), "all watch again", 60)
        asked = audit.read([place.plane.audit_log(number) for number in range(len(MASTERS))], killed, time.time())
    herd.assert_every_change_seen_once()
    assert sum(one.held_off[429] for one in herd.watchers) >= HERD - 2 * SLOWLY
    assert audit.most_at_once(asked, 1.0) <= 2 * SLOWLY  # what may come at once, and what may come in a second
    assert sum(one.client == "herd" and one.code == 0 for one in asked) >= HERD


def test_load_is_even_after_a_rolling_restart(place: Arena) -> None:
    """The master that came back last has no watches then; within two minutes it has its share, and nobody notices."""
    scenario = scenarios()["rolling-delay"]
    streams: list[list[int]] = []  # of each master, as they changed

    def spread() -> float:
        pool = place.status()["pools"][0]
        counts = [backend["long_streams"] for backend in pool["backends"]]
        if counts not in streams[-1:]:
            streams.append(counts)
        return float(pool["spread"])

    def run(plane: ChaosPlane) -> None:
        scenario.run(plane)
        spread()

    herd = Herd(place.plane, place.contender.front, "herd-rolling", HERD)
    with herd.running():
        outcome = outcome_of(place, replace(scenario, run=run))
        try:
            took = until(lambda: spread() <= 0.1, "the load is even", 120)
        finally:
            print(f"watches after the restart: {streams}")
    print(f"even {took:.0f} s after the round")
    assert_nothing_noticed(outcome)
    assert herd.errors() == []
    herd.assert_every_change_seen_once()


def test_etcd_is_away_for_longer_than_drain_timeout(place: Arena) -> None:
    """That is no reason to end what is connected to the masters: it is the same etcd behind all of them."""
    before = len(place.log())
    with place.configured(f"drain_timeout: {DRAIN}s", before="backends"):
        outcome = outcome_of(place, "etcd-long")
    assert place.ended(before) == []
    assert outcome.errors("watch", "rollout") == 0
    assert [(one.missed, one.doubled) for one in outcome.watchers.values()] == [(0, 0)] * 5
    assert outcome.mutations.doubled == outcome.mutations.lost == 0

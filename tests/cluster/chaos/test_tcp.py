"""lbproxy in tcp mode: connections die with their master, and nothing else does.

A watch that is cut raises in a Python library and ends `kubectl get -w`, behind any balancer that does not read HTTP.
What is promised is that everybody who comes back is served at once, and that client-go's reflectors need no LIST.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.cluster.balancer import until
from tests.cluster.chaos.arena import Arena
from tests.cluster.chaos.audit import CONTROLLERS
from tests.cluster.chaos.faults import ETCD_AWAY, Scenario, scenarios
from tests.cluster.chaos.outage import Outage
from tests.cluster.chaos.outcome import READS, WRITES, Outcome
from tests.cluster.chaos.round import LIBRARIES

pytestmark = pytest.mark.cluster

CONTENDER = "lbproxy-tcp"
DRAIN = 5  # seconds


def outcome_of(place: Arena, scenario: Scenario | str) -> Outcome:
    scenario = scenarios()[scenario] if isinstance(scenario, str) else scenario
    outcome = place.round(scenario)
    print(f"{scenario.name}: {outcome}")
    return outcome


def assert_leaders_and_data_unharmed(outcome: Outcome) -> None:
    assert outcome.leaders_lost == outcome.managers_ended == outcome.deaf == 0
    assert outcome.mutations.doubled == outcome.mutations.lost == 0
    for name in LIBRARIES:  # they go on from the last version they saw
        assert (outcome.watchers[name].missed, outcome.watchers[name].doubled) == (0, 0)


def test_two_masters_are_killed(place: Arena) -> None:
    """Without a promise about LISTs: a reflector may come to the master that is back, which knows no older version."""
    assert_leaders_and_data_unharmed(outcome_of(place, "kill"))


def test_a_master_goes_dark(place: Arena) -> None:
    """5 s, where client-go by itself needs 45 s and a LIST of everything."""
    outcome = outcome_of(place, "dark")
    assert_leaders_and_data_unharmed(outcome)
    assert not any(outcome.lists.get(name) for name in CONTROLLERS)
    assert outcome.trouble <= 5  # of which close_spread may take 1


def test_a_master_is_frozen(place: Arena) -> None:
    """Its kernel accepts connections, and no TLS handshake ends: 7 s."""
    outcome = outcome_of(place, "frozen")
    assert_leaders_and_data_unharmed(outcome)
    assert not any(outcome.lists.get(name) for name in CONTROLLERS)
    assert outcome.trouble <= 7


@pytest.mark.parametrize("name", ["rolling-delay", "rolling"])
def test_a_rolling_restart(place: Arena, name: str) -> None:
    """Without a shutdown delay, which is kubeadm's default, the listeners close with the SIGTERM."""
    assert_leaders_and_data_unharmed(outcome_of(place, name))


def test_etcd_is_away(place: Arena) -> None:
    """No master can work, and none is dead: no connection is cut for it, and all is well again soon."""
    outcome = outcome_of(place, "etcd")
    assert outcome.mutations.doubled == outcome.mutations.lost == 0
    assert [(one.missed, one.doubled) for one in outcome.watchers.values()] == [(0, 0)] * 5
    assert outcome.errors("watch", "rollout") == 0
    assert outcome.trouble <= ETCD_AWAY + 10


def test_a_master_is_slow(place: Arena) -> None:
    """It waits for its etcd: it is not ready, and not dead, so no connection to it is cut."""
    before = len(place.log())
    outcome = outcome_of(place, "slow")
    assert_leaders_and_data_unharmed(outcome)
    assert outcome.lists == {}
    assert outcome.errors(*READS, *WRITES, "watch", "rollout") == 0
    until(lambda: len(place.verdicts(before)) > 1, "it is ready again", 10)
    assert place.verdicts(before) == ["not_ready", "up"]
    assert place.ended(before) == []


def test_all_masters_are_killed(place: Arena) -> None:
    """Who connects meanwhile is refused at once; everybody comes back."""
    outage = Outage(place.contender.front, place.serves)
    outcome = outcome_of(place, replace(scenarios()["all"], run=outage.run))
    print(f"refused in {max(one.seconds for one in outage.refusals):.3f} s, back after {outage.back:.1f} s")
    assert all(one.answer == b"" for one in outage.refusals)
    assert max(one.seconds for one in outage.refusals) <= 0.1
    assert outage.back <= 1
    assert outcome.recovered
    assert outcome.deaf == 0
    assert outcome.mutations.doubled == outcome.mutations.lost == 0


def test_etcd_is_away_for_longer_than_drain_timeout(place: Arena) -> None:
    """That is no reason to end what is connected to the masters: it is the same etcd behind all of them."""
    before = len(place.log())
    with place.configured(f"drain_timeout: {DRAIN}s", before="backends"):
        outcome = outcome_of(place, "etcd-long")
    assert place.ended(before) == []
    assert outcome.errors("watch", "rollout") == 0
    assert [(one.missed, one.doubled) for one in outcome.watchers.values()] == [(0, 0)] * 5
    assert outcome.mutations.doubled == outcome.mutations.lost == 0

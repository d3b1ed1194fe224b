"""lbproxy in tcp mode: connections die with their master, and nothing else does.

A watch that is cut raises in a Python library and ends `kubectl get -w`, behind any balancer that does not read HTTP.
What is promised is that everybody who comes back is served at once, and that client-go's reflectors need no LIST.
"""

from __future__ import annotations

import pytest

from tests.cluster.chaos.arena import Arena
from tests.cluster.chaos.audit import CONTROLLERS
from tests.cluster.chaos.faults import scenarios
from tests.cluster.chaos.outcome import Outcome
from tests.cluster.chaos.round import LIBRARIES

pytestmark = pytest.mark.cluster

CONTENDER = "lbproxy-tcp"


def outcome_of(place: Arena, name: str) -> Outcome:
    outcome = place.round(scenarios()[name])
    print(f"{name}: {outcome}")
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
    assert outcome.trouble <= 5 + 2  # the 2 s of close_spread


def test_a_master_is_frozen(place: Arena) -> None:
    """Its kernel accepts connections, and no TLS handshake ends: 7 s."""
    outcome = outcome_of(place, "frozen")
    assert_leaders_and_data_unharmed(outcome)
    assert not any(outcome.lists.get(name) for name in CONTROLLERS)
    assert outcome.trouble <= 7 + 2


def test_a_rolling_restart(place: Arena) -> None:
    """Without a shutdown delay, which is kubeadm's default: the listeners close with the SIGTERM."""
    assert_leaders_and_data_unharmed(outcome_of(place, "rolling"))

"""A master that hangs: its kernel still accepts connections, so only the budgets of the checks tell."""

from __future__ import annotations

import signal

import pytest

from tests.cluster.balancer import Balancer, until
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import DOORS, Kubectl

pytestmark = pytest.mark.cluster


def test_a_frozen_master_is_found_out(cluster: ControlPlane, balancer: Balancer) -> None:
    clients = [Kubectl.through(door, cluster) for door in DOORS]
    cluster.signal_master(0, signal.SIGSTOP)
    try:
        took = balancer.wait_avoided(0, 20)
        print(f"master 0 frozen: out of both pools after {took:.2f} s")
        for _ in range(4):  # more than there are masters, so that no turn falls on the frozen one
            for client in clients:
                client("get", "namespaces")
    finally:
        cluster.signal_master(0, signal.SIGCONT)
    balancer.wait_health(0, "up")
    totals = balancer.totals(0)

    def used() -> bool:
        for client in clients:
            client("get", "namespaces")
        return all(now > then for now, then in zip(balancer.totals(0), totals, strict=True))

    until(used, "the master is used again", 20)

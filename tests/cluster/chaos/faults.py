"""The scenarios: what happens to the masters, and that they come back. All usual ones take less than a minute."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.cluster.chaos.audit import busiest_master
from tests.cluster.chaos.plane import ChaosPlane
from tests.cluster.control_plane import MASTERS

DEAD_FOR = 2.0  # seconds until a killed master is started again
BETWEEN = 4.0  # seconds from a master's readiness to the next accident: three checks of a balancer
DARK_FOR = 25.0  # seconds: enough for a lease to be lost (10 s), not for client-go to find out by itself (45 s)
GRACE = 3.0  # seconds after the shutdown delay until a master that waits for its watches is killed
BOOKMARKS = 62.0  # seconds: a watch that allows them gets one each minute
ETCD_AWAY = 5.0  # seconds
LONG_AWAY = 12.0  # seconds: no leader outlives that
LATE = 2.5  # seconds: longer than the 2 s that an apiserver's /readyz waits for etcd, short enough for leases to live
SLOW_FOR = 25.0  # seconds


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    run: Callable[[ChaosPlane], None]
    shutdown_delay: int = 0  # of the masters
    usual: bool = True  # part of a run that names no scenarios


def scenarios() -> dict[str, Scenario]:
    """In the order of a run: those in which masters are restarted leave masters of different ages behind."""
    every = (
        Scenario("calm", "nothing happens", _calm),
        Scenario("dark", "a master's packets vanish for 25 s", _dark),
        Scenario("frozen", "a master stopped (SIGSTOP) for 25 s", _frozen),
        Scenario("etcd", "etcd away for 5 s", _etcd),
        Scenario("etcd-long", "etcd away for 12 s", partial(_etcd, away=LONG_AWAY), usual=False),
        Scenario("slow", "a slow master: its etcd answers 2.5 s late for 25 s", _slow),
        Scenario("kill", "two masters killed (kill -9) one after the other, and back", _kill_two),
        Scenario("rolling-delay", "rolling restart, shutdown delay 3 s", _rolling, shutdown_delay=3),
        Scenario("rolling", "rolling restart, no shutdown delay", _rolling),
        Scenario("upgrade", "rolling restart, a minute between masters", _upgrade, shutdown_delay=3, usual=False),
        Scenario("all", "all masters killed, and back", _kill_all),
    )
    return {one.name: one for one in every}


def _calm(_plane: ChaosPlane) -> None:
    time.sleep(10)


def _kill_two(plane: ChaosPlane) -> None:
    """The busiest first. The third stays, because only masters that were there before know what an idle watch knows."""
    first = busiest_master(plane)
    for number in (first, (first + 1) % len(MASTERS)):
        plane.kill_master(number)
        time.sleep(DEAD_FOR)
        plane.bring_back(number)
        time.sleep(BETWEEN)


def _dark(plane: ChaosPlane) -> None:
    with plane.dark(busiest_master(plane)):
        time.sleep(DARK_FOR)


def _frozen(plane: ChaosPlane) -> None:
    with plane.frozen(busiest_master(plane)):
        time.sleep(DARK_FOR)


def _rolling(plane: ChaosPlane) -> None:
    for number in range(len(MASTERS)):
        plane.terminate_gracefully(number, plane.shutdown_delay + GRACE)
        plane.bring_back(number)
        time.sleep(BETWEEN)


def _upgrade(plane: ChaosPlane) -> None:
    """As kubeadm and kubelets do it: by then every idle watch has had a bookmark that the restarted master knows."""
    for number in range(len(MASTERS)):
        plane.terminate_gracefully(number, plane.shutdown_delay + GRACE)
        plane.bring_back(number)
        time.sleep(BOOKMARKS)


def _etcd(plane: ChaosPlane, away: float = ETCD_AWAY) -> None:
    etcd = plane.processes.pop("etcd")
    etcd.send_signal(signal.SIGTERM)
    etcd.wait(10)
    time.sleep(away)
    plane.start_etcd()
    plane.wait_all_ready()


def _slow(plane: ChaosPlane) -> None:
    with plane.far_from_etcd(busiest_master(plane), LATE):
        time.sleep(SLOW_FOR)


def _kill_all(plane: ChaosPlane) -> None:
    stop_all(plane)
    time.sleep(DEAD_FOR)
    start_all(plane)
    plane.wait_all_ready()


def stop_all(plane: ChaosPlane) -> None:
    for number in range(len(MASTERS)):
        plane.kill_master(number)


def start_all(plane: ChaosPlane) -> None:
    for number in range(len(MASTERS)):
        plane.start_master(number)

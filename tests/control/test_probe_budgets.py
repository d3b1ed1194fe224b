"""The budgets of a health check, to the tick: over streams in memory, in virtual time."""

from __future__ import annotations

import contextlib

import pytest
import trio

from lbproxy.control.probe import Probe
from lbproxy.core.config import Address, CheckType, HealthCheck
from lbproxy.core.health import Verdict
from tests.control.stubs import (
    PATIENT,
)


def probe_of(config: HealthCheck, stream: trio.abc.Stream) -> Probe:
    async def dial(_address: Address) -> trio.abc.Stream:
        return stream

    return Probe(config, Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial)


async def test_budget_of_the_connect(autojump_clock: trio.testing.MockClock) -> None:
    async def dial(_address: Address) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    probe = Probe(HealthCheck(type=CheckType.HTTPS), Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial)
    result = await probe.run()
    assert (result.verdict, result.reason) == (Verdict.DOWN, "no answer to TCP connect in 1s")
    assert (result.times.connect, result.times.tls, result.times.answer) == (1.0, None, None)


async def test_budget_of_the_handshake_is_twice_that(autojump_clock: trio.testing.MockClock) -> None:
    near, _far = trio.testing.memory_stream_pair()
    result = await probe_of(HealthCheck(type=CheckType.HTTPS), near).run()
    assert (result.verdict, result.reason) == (Verdict.DOWN, "TLS handshake: not complete in 2s")
    assert (result.times.connect, result.times.tls, result.times.answer) == (0.0, 2.0, None)


async def test_budget_of_the_answer_is_for_all_of_it(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()

    async def drip() -> None:
        await far.send_all(b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n[-]etcd failed\n")
        for _ in range(100):
            await trio.sleep(0.9)
            await far.send_all(b".")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        result = await probe_of(HealthCheck(type=CheckType.HTTP), near).run()
        nursery.cancel_scope.cancel()
    assert (result.verdict, result.reason) == (Verdict.NOT_READY, "GET /readyz answered 500: [-]etcd failed")
    assert result.times.answer == 5.0


async def test_cancelling_a_check_closes_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    with trio.move_on_after(1):
        await probe_of(HealthCheck(type=CheckType.HTTP), near).run()
    await far.receive_some()
    assert await far.receive_some() == b""


async def test_trouble_of_our_own_says_nothing_of_the_backend() -> None:
    async def dial(_address: Address) -> trio.abc.Stream:
        raise OSError(24, "Too many open files")

    result = await Probe(PATIENT, Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial).run()
    assert (result.verdict, result.reason) == (Verdict.NONE, "the check cannot be made: too many open files")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (111, "connection refused"),
        (113, "no route to host"),
        (101, "network is unreachable"),
        (13, "permission denied"),
    ],
)
async def test_words_of_the_system(number: int, words: str) -> None:
    async def dial(_address: Address) -> trio.abc.Stream:
        raise OSError(number, "x")

    result = await Probe(PATIENT, Address("10.0.0.1:6443", "10.0.0.1", 6443), dial=dial).run()
    assert (result.verdict, result.reason) == (Verdict.DOWN, words)


class Process:
    """Gives out connections; what is asked on them is answered after so many seconds."""

    def __init__(self, nursery: trio.Nursery, delays: dict[str, float]) -> None:
        self._nursery = nursery
        self._delays = delays
        self.asked: list[tuple[float, str]] = []

    async def dial(self, _address: Address) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, far)
        return near

    async def _serve(self, stream: trio.abc.Stream) -> None:
        target = bytes(await stream.receive_some(1000)).split()[1].decode()
        self.asked.append((trio.current_time(), target))
        await trio.sleep(self._delays[target])
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


NEVER = 1e6


@pytest.mark.parametrize(
    ("answer", "ping", "verdict", "reason", "took"),
    [
        (0.5, NEVER, Verdict.UP, "GET /readyz answered 200", 0.5),
        (1.5, NEVER, Verdict.UP, "GET /readyz answered 200", 1.5),
        (4.5, 0.0, Verdict.UP, "GET /readyz answered 200", 4.5),
        (NEVER, 0.9, Verdict.NOT_READY, "GET /readyz: no answer in 5s", 5.0),
        (NEVER, NEVER, Verdict.DOWN, "no answer to GET /readyz in 2s, nor to GET /livez/ping: it hangs", 2.0),
        (2.5, 1.5, Verdict.DOWN, "no answer to GET /readyz in 2s, nor to GET /livez/ping: it hangs", 2.0),
    ],
)
async def test_a_process_that_hangs_is_told_from_a_slow_one(
    autojump_clock: trio.testing.MockClock, answer: float, ping: float, verdict: Verdict, reason: str, took: float
) -> None:
    """A process that is stopped still gets connections from its kernel."""
    async with trio.open_nursery() as nursery:
        process = Process(nursery, {"/readyz": answer, "/livez/ping": ping})
        probe = Probe(HealthCheck(type=CheckType.HTTP), Address("10.0.0.1:80", "10.0.0.1", 80), dial=process.dial)
        alive = trio.Event()
        result = await probe.run(alive)
        nursery.cancel_scope.cancel()
    assert (result.verdict, result.reason) == (verdict, reason)
    assert result.times.answer == pytest.approx(took)
    assert alive.is_set() is (verdict is not Verdict.DOWN)
    assert process.asked == [(0.0, "/readyz"), (1.0, "/livez/ping")][: 1 if took < 1 else 2]


async def test_others_than_apiservers_may_take_their_time(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        process = Process(nursery, {"/health": NEVER})
        check = HealthCheck(type=CheckType.HTTP, path="/health")
        result = await Probe(check, Address("10.0.0.1:80", "10.0.0.1", 80), dial=process.dial).run()
        nursery.cancel_scope.cancel()
    assert (result.verdict, result.reason) == (Verdict.NOT_READY, "GET /health: no answer in 5s")

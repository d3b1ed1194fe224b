"""The budgets of a health check, to the tick: over streams in memory, in virtual time."""

from __future__ import annotations

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

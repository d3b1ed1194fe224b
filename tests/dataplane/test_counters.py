"""What the data plane counts for each backend: dials, answers and ends."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import trio

from lbproxy.core import messages
from lbproxy.core.config import AllDown, Config, Timeouts
from lbproxy.core.health import Health
from lbproxy.core.histogram import BOUNDS
from lbproxy.core.messages import BackendStats
from tests.core.test_messages import busy
from tests.dataplane.harness import PATIENCE, Handler, Lab, address, read_all, read_exactly, reset
from tests.dataplane.test_exchange import OK, answering, ask, next_head, request
from tests.dataplane.test_relay import assert_reset

LAST = "Connection: close"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
WAIT = 0.3  # seconds


def renamed(config: Config) -> Config:
    """With a listener of another name, which is another one."""
    (listener,) = config.listeners
    return replace(config, listeners=(replace(listener, name="other"),))


def late(response: bytes) -> Handler:
    async def serve(stream: trio.SocketStream) -> None:
        await next_head(stream)
        await trio.sleep(WAIT)
        await stream.send_all(response)

    return serve


def slower_than(bound: float, counts: dict[int, int]) -> int:
    """Durations above a bound."""
    return sum(count for bucket, count in counts.items() if bucket > BOUNDS.index(bound))


@pytest.mark.parametrize("response", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
async def test_answers_are_counted_by_class_and_by_time(lab: Lab, response: bytes) -> None:
    """The short way and the long one."""
    lb = await lab.balance("http", await lab.backend(answering(response)))
    async with await lb.connect() as client:
        for _ in range(5):
            await client.send_all(request())
            await read_exactly(client, len(response))
    stats = lb.backends[0]
    assert stats.responses == {2: 5}
    assert sum(stats.heads.values()) == 5
    assert slower_than(0.25, stats.heads) == 0
    assert 0 <= stats.head_seconds < 1
    assert stats.ends == {}


async def test_a_late_answer_is_in_a_bucket_of_its_own_and_classes_are_apart(lab: Lab) -> None:
    lb = await lab.balance("http", await lab.backend(late(MISSING)), await lab.backend(answering(OK)))
    for _ in range(2):
        await ask(lb, request("/", LAST))
    slow, fast = lb.backends
    assert (slow.responses, fast.responses) == ({4: 1}, {2: 1})
    assert slower_than(0.25, slow.heads) == 1
    assert slower_than(0.25, fast.heads) == 0
    assert slow.head_seconds >= WAIT


async def test_the_time_of_a_failed_try_is_not_held_against_who_answers(lab: Lab) -> None:
    lb = await lab.balance("http", lab.black_hole(), await lab.backend(answering(OK)), timeouts=Timeouts(connect=WAIT))
    assert (await ask(lb, request("/", LAST))).startswith(b"HTTP/1.1 200 OK")
    silent, alive = lb.backends
    assert silent.dial_seconds["timeout"] >= WAIT
    assert {result for result, _bucket in silent.dials} == {"timeout"}
    assert slower_than(0.25, {bucket: count for (_result, bucket), count in silent.dials.items()}) == 1
    assert slower_than(0.25, alive.heads) == 0


async def test_dials_are_counted_by_result(lab: Lab) -> None:
    lb = await lab.balance("http", lab.refusing(), await lab.backend(answering(OK)))
    await ask(lb, request("/", LAST))
    refusing, alive = lb.backends
    assert {result: count for (result, _bucket), count in refusing.dials.items()} == {"refused": 1}
    assert {result: count for (result, _bucket), count in alive.dials.items()} == {"ok": 1}


async def test_a_request_that_its_client_gives_up_is_an_end_of_its_backend(lab: Lab) -> None:
    asked, freed = trio.Event(), trio.Event()

    async def think(stream: trio.SocketStream) -> None:
        await next_head(stream)
        asked.set()
        await read_all(stream)
        freed.set()

    lb = await lab.balance("http", await lab.backend(think))
    client = await lb.connect()
    await client.send_all(request())
    await asked.wait()
    await client.aclose()
    await freed.wait()
    assert lb.backends[0].ends == {"CH": 1}
    assert lb.backends[0].responses == {}


async def test_an_answer_that_never_comes_is_an_end_of_its_backend(lab: Lab) -> None:
    async def ignore(stream: trio.SocketStream) -> None:
        await read_all(stream)

    lb = await lab.balance("http", await lab.backend(ignore), timeouts=Timeouts(response_header=0.2))
    await ask(lb, request("/", LAST))
    assert lb.backends[0].ends == {"sH": 1}


async def test_a_tcp_connection_for_which_there_is_nobody(lab: Lab) -> None:
    lb = await lab.balance("tcp", await lab.backend(answering(OK)))
    lb.worker._take_health(messages.SetHealth("p", 0, Health.DOWN, False))
    await assert_reset(lb)
    assert lb.worker.stats().no_backend == {"p": 1}


async def test_a_tcp_connection_that_its_backend_resets(lab: Lab) -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        reset(stream)

    lb = await lab.balance("tcp", await lab.backend(cut))
    client = await lb.connect()
    await client.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await read_all(client)
    await client.aclose()
    await lb.until(lambda: bool(lb.backends[0].ends))
    assert lb.backends[0].ends == {"SD": 1}


async def test_what_a_removed_listener_counted_stays_counted(lab: Lab) -> None:
    lb = await lab.balance("http", lab.refusing(), all_down=AllDown.REJECT)
    lb.worker._pools["p"].peers[0].usable = False
    waiting = await lb.connect()  # keeps the listener for a moment longer
    await lb.until(lambda: lb.listener.active == 1)
    await ask(lb, request("/", LAST))
    (removed,) = lb.worker._listeners
    removed.accept_paused = 1
    removed.leases.renewed("kube-system/x", 0.0)
    removed.leases.renewed("kube-system/x", 2.0)

    def counted() -> tuple[int, int, float, list[int]]:
        stats = lb.worker.stats()
        return stats.no_backend["p"], stats.accept_paused, stats.leases.gap_seconds, stats.leases.buckets

    before = counted()
    assert before[:3] == (1, 1, 2.0)
    lb.reconfigure(renamed(lb.configure.config))
    await lb.until(lambda: lb.worker.stats().generation == 1)
    assert counted() == before, "while its last connection lives"
    await waiting.aclose()
    await lb.until(lambda: not removed.connections)
    lb.reconfigure(lb.configure.config)
    await lb.until(lambda: lb.worker.stats().generation == 2)
    assert removed not in lb.worker._retired
    assert counted() == before
    assert lb.worker.stats().leases.known == 0


async def test_counters_that_are_larger_than_a_packet_reach_the_control_plane(lab: Lab) -> None:
    lb = await lab.balance("tcp", *(address("127.0.0.1", port) for port in range(1, 1001)))
    for peer in lb.worker._pools["p"].peers:
        peer.stats = busy()
    lb.control.send(messages.encode(messages.GetStats()))
    inbox, stats = messages.Inbox(), None
    with trio.fail_after(PATIENCE):
        while stats is None:
            await trio.lowlevel.wait_readable(lb.control)
            stats = inbox.take(lb.control.recv(messages.MAX_MESSAGE))
    assert isinstance(stats, messages.Stats)
    assert stats.pools["p"][999].dials == busy().dials


async def test_an_answer_to_the_control_plane_costs_no_client_a_pause(lab: Lab) -> None:
    """A thousand backends that answer, and the leases of five thousand nodes; others wait for this worker meanwhile."""
    lb = await lab.balance("http", *(address("127.0.0.1", port) for port in range(1, 1001)))
    for peer in lb.worker._pools["p"].peers:
        peer.answers[2][0] = 1
        peer.stats.dialled("ok", 0.001)
    (listener,) = lb.worker._listeners
    for node in range(5000):
        listener.leases.renewed(f"kube-node-lease/node-{node}.example", lb.worker._reactor.timers.now)
    took = []
    for _ in range(5):
        began = time.thread_time()
        messages.encode_in_parts(lb.worker.stats())
        took.append(time.thread_time() - began)
    assert min(took) < 0.05, took


def test_a_dial_of_no_time_is_in_the_first_bucket() -> None:
    stats = BackendStats()
    stats.dialled("refused", 0.0)
    stats.dialled("refused", 0.0)
    assert stats.dials == {("refused", 0): 2}

"""The admin endpoint on a view of our own: pages, totals, logs, and clients that misbehave."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import trio

from lbproxy.admin import server, totals
from lbproxy.admin.events import RecentEvents
from lbproxy.admin.history import History
from lbproxy.admin.log import HELD, EventLog, LinePump, Output
from lbproxy.admin.metrics import metrics
from lbproxy.admin.server import AdminServer
from lbproxy.admin.status import status
from lbproxy.admin.view import BackendView, WorkerView
from lbproxy.control.configfile import loads
from lbproxy.control.reload import ReloadResult
from lbproxy.control.upgrader import UpgradeResult
from lbproxy.control.worker_log import line_pump
from lbproxy.core.config import BackendState, Config
from lbproxy.core.health import CheckReport, CheckResult, CheckTimes, Health, Verdict
from lbproxy.core.histogram import Histogram
from lbproxy.core.leases import LeaseReport, LeaseView
from lbproxy.core.messages import Find, Found, Stats, StreamStats

CONFIG = """
listeners:
  - {name: api, bind: "127.0.0.1:6443", mode: tcp, pool: masters}
  - {name: plain, bind: ["127.0.0.1:8080", "127.0.0.2:8080"], mode: http, pool: doors}
pools:
  masters: {backends: ["10.0.1.10:6443", "10.0.1.11:6443"]}
  doors: {backends: ["10.0.1.10:8080"]}
"""


class Fixed:
    """A view whose every number is set by the test."""

    def __init__(self) -> None:
        self.config: Config = loads(CONFIG).config
        self.config_path = "/etc/lbproxy/lb.yaml"
        self.config_sha256 = "0" * 64
        self.config_error: str | None = None
        self.loaded_at = self.started_at = time.time()
        self.draining = False
        self.upgraded_from = ""
        self.upgrade_error: str | None = None
        self.handing_over = 0
        self.ready = True
        self.stats = totals.empty(self.config)
        self.history, self.events = History(), RecentEvents()
        self.seen: Callable[[BackendView], BackendView] = lambda one: one  # what a test changes of each backend
        self.healths = {"masters": [Health.UP, Health.DOWN], "doors": [Health.UNKNOWN]}

    def pools(self) -> dict[str, list[BackendView]]:
        checked = CheckReport(time.time(), CheckResult(Verdict.UP, "fine", 200, times=CheckTimes(0.01)), None, None)
        return {
            pool.name: [
                self.seen(BackendView(backend, health, "because", time.time(), checked))
                for backend, health in zip(pool.backends, self.healths[pool.name], strict=True)
            ]
            for pool in self.config.pools
        }

    def is_set_at_runtime(self, pool: str, address: str) -> bool:
        return False

    def fail_opens(self) -> dict[str, tuple[bool, int]]:
        return {"masters": (True, 3), "doors": (False, 0)}

    def workers(self) -> list[WorkerView]:
        return [WorkerView(0, os.getpid(), self.ready, self.stats)]

    def answers(self) -> Histogram:
        return Histogram()

    def restarts(self) -> int:
        return 3

    def log_dropped(self) -> int:
        return 2

    async def counters(self) -> Stats:
        return self.stats

    def known_counters(self) -> Stats:
        return self.stats


@pytest.fixture
def view() -> Fixed:
    return Fixed()


@pytest.fixture
async def address(view: Fixed, nursery: trio.Nursery) -> AsyncIterator[tuple[str, int]]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(AdminServer(view).serve, listeners[0])
    yield listeners[0].socket.getsockname()
    nursery.cancel_scope.cancel()


async def ask(address: tuple[str, int], data: bytes) -> bytes:
    """Send, half-close, and read to the end."""
    answer = b""
    with trio.fail_after(5):
        async with await trio.open_tcp_stream(*address) as stream:
            try:
                await stream.send_all(data)
                await stream.send_eof()
                async for chunk in stream:
                    answer += chunk
            except trio.BrokenResourceError:  # it closes on what it does not want to read
                pass
    return answer


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("/livez", 200, "ok"),
        ("/readyz", 200, "ok"),
        ("/healthz/backends", 200, "masters: 1 of 2 eligible"),
        ("/healthz/backends?min=2", 503, "doors: 1 of 1 eligible"),
        ("/healthz/backends?min=1&pool=doors", 200, "doors: 1 of 1"),
        ("/healthz/backends?pool=nope", 404, "masters, doors"),
        ("/healthz/backends?min=-1", 400, "min must be a number"),
        ("/healthz/backends?min=" + 5000 * "9", 400, "min must be a number"),
        ("/healthz/backends?min=%C2%B2", 400, "min must be a number"),
        ("/", 200, "<main>"),
        ("/nope", 404, "no such page"),
        ("/livez/", 404, "no such page"),
        ("/status", 200, '"version"'),
        ("/metrics", 200, "lbproxy_info"),
        ("/overview", 200, '"history"'),
        ("/overview?after=-1", 400, "must be numbers"),
        ("/overview?event=x", 400, "must be numbers"),
        ("/dashboard/dashboard.js", 200, "fetch("),
        ("/dashboard/__init__.py", 404, "no such page"),
        ("/dashboard/../server.py", 404, "no such page"),
    ],
)
async def test_pages(address: tuple[str, int], path: str, code: int, text: str) -> None:
    answer = await ask(address, get(path))
    assert answer.startswith(b"HTTP/1.1 %d " % code)
    assert text in answer.decode()


async def test_draining_and_without_workers(address: tuple[str, int], view: Fixed) -> None:
    view.draining = True
    assert b"HTTP/1.1 503 " in await ask(address, get("/readyz"))
    assert b"HTTP/1.1 200 " in await ask(address, get("/livez"))
    view.ready = False
    assert b"HTTP/1.1 503 " in await ask(address, get("/livez"))


async def test_head_has_no_body_and_other_methods_are_refused(address: tuple[str, int]) -> None:
    assert (await ask(address, get("/livez", "HEAD"))).endswith(b"\r\n\r\n")
    refused = await ask(address, get("/livez", "DELETE"))
    assert refused.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET, HEAD" in refused


async def test_a_connection_serves_several_requests(address: tuple[str, int]) -> None:
    answer = await ask(address, get("/livez") * 3)
    assert answer.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n\r\n", b"\x16\x03\x01\x00", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000, get("//[")],
)
async def test_rubbish_is_answered_or_dropped_and_harms_nobody(address: tuple[str, int], data: bytes) -> None:
    answer = await ask(address, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert b"HTTP/1.1 200 " in await ask(address, get("/livez"))


async def test_a_bug_in_a_page_ends_that_connection_only(
    address: tuple[str, int], view: Fixed, caplog: pytest.LogCaptureFixture
) -> None:
    view.healths = {}
    assert await ask(address, get("/status")) == b""
    assert "internal error in the admin endpoint" in caplog.text
    assert b"HTTP/1.1 200 " in await ask(address, get("/livez"))


class Slow(Fixed):
    """A reload takes its time."""

    seconds = 1.0
    reloads = 0

    async def reload(self) -> ReloadResult:
        await trio.sleep(self.seconds)
        self.reloads += 1
        return ReloadResult(changes=("all",))

    async def upgrade(self, who: str) -> UpgradeResult:
        raise NotImplementedError

    def settled(self) -> trio.Lock:
        return trio.Lock()

    async def set_state(self, pool: str, addresses: Sequence[str], state: BackendState, who: str) -> None:
        raise NotImplementedError

    async def set_weight(self, pool: str, addresses: Sequence[str], weight: int, who: str) -> None:
        raise NotImplementedError

    async def find(self, wanted: Find, who: str) -> Found:
        raise NotImplementedError


@pytest.mark.parametrize("waits", [True, False])
async def test_a_verb_has_the_time_that_it_takes(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """Slow clients are dropped. What was asked for is done to its end, whether anybody waits for it or not."""
    monkeypatch.setattr(server, "REQUEST_TIMEOUT", 0.2)
    view = Slow()
    with trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.bind(str(tmp_path / "sock"))
        sock.listen()
        nursery.start_soon(AdminServer(view, view).serve, trio.SocketListener(sock))
        async with await trio.open_unix_socket(str(tmp_path / "sock")) as stream:
            await stream.send_all(get("/reload", "POST"))
            if waits:
                with trio.fail_after(5):
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        with trio.fail_after(5):
            while not view.reloads:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_idle_clients_are_dropped_and_do_not_keep_others_out(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_TIMEOUT", 0.3)
    idle = [await trio.open_tcp_stream(*address) for _ in range(server.MAX_CONNECTIONS + 10)]
    with trio.fail_after(5):
        for stream in idle:
            assert await stream.receive_some(1) == b""
            await stream.aclose()
    assert b"HTTP/1.1 200 " in await ask(address, get("/livez"))


async def test_status_has_the_fields_that_scripts_rely_on(view: Fixed) -> None:
    page = json.loads(json.dumps(await status(view)))
    assert {"version", "uptime_s", "config", "workers", "listeners", "pools"} <= set(page)
    assert {"path", "sha256", "loaded_at", "error"} <= set(page["config"])
    assert {"pid", "connections"} <= set(page["workers"][0])
    assert {"name", "bind", "mode", "pool", "accepted", "active"} <= set(page["listeners"][0])
    assert page["listeners"][1]["bind"] == ["127.0.0.1:8080", "127.0.0.2:8080"]
    backend = page["pools"][0]["backends"][1]
    wanted = "address weight backup health state eligible active total failed long_streams bytes_in bytes_out check"
    assert set(wanted.split()) <= set(backend)
    assert set(backend["check"]) == {"at", "ok", "status", "latency_ms", "error"}
    assert (backend["health"], backend["eligible"]) == ("down", False)


async def test_long_streams_leases_and_retries_are_shown(view: Fixed) -> None:
    streams = [StreamStats.of([0.0, 6900.0, 7195.0], 7200.0), StreamStats()]
    view.stats.streams = {"masters": [{"watch": streams[0]}, {"exec": streams[1]}]}
    view.stats.pools["masters"][0].long_streams = 3
    view.stats.pools["masters"][0].retry("stale")
    view.stats.leases.add(
        LeaseReport([LeaseView("kube-system/kube-scheduler", 1.0, 2.0, 7.0)], 1, 3, 9.0, [0, 1, 0, 1, 0, 0, 0, 0])
    )
    page = await status(view)
    pool = page["pools"][0]
    assert pool["fail_open"] is True
    assert pool["backends"][0]["streams"] == {
        "watch": {"count": 3, "oldest_s": 7200.0, "ages": {"under_1m": 1, "under_10m": 1, "under_60m": 0, "older": 1}}
    }
    assert pool["backends"][0]["retries"] == {"stale": 1}
    assert page["leases"]["shown"] == [
        {"name": "kube-system/kube-scheduler", "since_s": 1.0, "gap_s": 2.0, "longest_gap_s": 7.0}
    ]
    text = (await metrics(view)).decode()
    for line in (
        'lbproxy_backend_streams{backend="10.0.1.10:6443",kind="watch",pool="masters"} 3.0',
        'lbproxy_backend_oldest_stream_seconds{backend="10.0.1.10:6443",kind="watch",pool="masters"} 7200.0',
        'lbproxy_backend_retries_total{backend="10.0.1.10:6443",pool="masters",reason="stale"} 1.0',
        'lbproxy_pool_fail_open{pool="masters"} 1.0',
        'lbproxy_pool_fail_opens_total{pool="masters"} 3.0',
        'lbproxy_lease_renewal_gap_seconds_bucket{le="2.5"} 1.0',
        'lbproxy_lease_renewal_gap_seconds_bucket{le="+Inf"} 2.0',
        "lbproxy_lease_renewal_gap_seconds_sum 9.0",
        "lbproxy_leases 1.0",
        'lbproxy_lease_waiting_seconds{group="leaders"} 1.0',
        'lbproxy_leader_waiting_seconds{lease="kube-system/kube-scheduler"} 1.0',
    ):
        assert line in text, line


def test_streams_and_leases_of_the_dead_are_gone() -> None:
    config = loads(CONFIG).config
    one, retired = totals.empty(config), totals.empty(config)
    one.streams = {"masters": [{"watch": StreamStats(2, [2, 0, 0, 0], 5.0)}, {}]}
    one.leases.add(LeaseReport([LeaseView("a/b", 1.0, 2.0, 2.0)], 1, 2, 2.0))
    totals.add(retired, one, gauges=False)
    total = totals.sum_of(config, [retired, one])
    assert total.streams["masters"][0]["watch"].count == 2
    assert (total.leases.known, total.leases.renewals, len(total.leases.shown)) == (1, 4, 1)


def test_totals_keep_what_dead_workers_counted() -> None:
    config = loads(CONFIG).config
    one, retired = totals.empty(config), totals.empty(config)
    one.listeners[0].accepted = 5
    one.listeners[0].active = 2
    one.listeners[0].terminations = {"--": 3, "CD": 1}
    one.pools["masters"][1].total = 7
    one.pools["masters"][1].long_streams = 4
    one.no_backend = {"doors": 2}
    one.pools["masters"][1].dialled("ok", 0.002)
    one.pools["masters"][1].heads = {0: 4, 3: 1}
    one.pools["masters"][1].head_seconds = 0.5
    totals.add(retired, one, gauges=False)
    total = totals.sum_of(config, [retired, one])
    assert total.listeners[0].accepted == 10
    assert total.listeners[0].active == 2
    assert total.listeners[0].terminations == {"--": 6, "CD": 2}
    assert total.pools["masters"][1].total == 14
    assert total.pools["masters"][1].long_streams == 4
    assert total.no_backend == {"doors": 4}
    assert total.pools["masters"][1].dials == {("ok", 1): 2}
    assert total.pools["masters"][1].dial_seconds == {"ok": 0.004}
    assert total.pools["masters"][1].heads == {0: 8, 3: 2}
    assert total.pools["masters"][1].head_seconds == 1.0


def test_a_reader_that_stops_costs_lines_and_not_time() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    output.start()
    line = b"x" * 1023 + b"\n"
    began = time.monotonic()
    for _ in range(2 * HELD // len(line)):
        output.write(line)
    assert time.monotonic() - began < 5
    assert output.dropped > 0
    got = 0
    while got < 65536:
        got += len(os.read(reader, 65536))
    os.close(reader)
    output.close()
    os.close(writer)


def test_a_reader_that_made_the_pipe_non_blocking_gets_whole_lines() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = Output(writer)
    output.start()
    line = b"x" * 1023 + b"\n"
    for _ in range(256):  # four times what the pipe holds
        output.write(line)
    got = b""
    while len(got) < 256 * len(line):
        got += os.read(reader, 65536)
    assert got == 256 * line
    assert output.dropped == 0
    output.close()
    os.close(reader)
    os.close(writer)


def test_lines_of_several_workers_do_not_mix() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    output.start()
    said: list[bytes] = []
    first, second = LinePump(output, said.append), LinePump(output, said.append)
    first.feed(b'{"ts":"one-')
    second.feed(b'{"ts":"two\n{"ts":"thr')
    first.feed(b"more\n")
    second.feed(b"ee\n")
    output.close()
    os.close(writer)
    with open(reader, "rb") as file:
        assert sorted(file.read().splitlines()) == [b'{"ts":"one-more', b'{"ts":"three', b'{"ts":"two']
    assert said == []


def test_what_is_no_access_line_is_an_event() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    output.start()
    log = EventLog(output)
    pump = line_pump(output, log, 7)
    pump.feed(b'{"ts":"one"}\n{"level": "warning", "msg": "so so"}\n{"ts":"two"}\n')
    pump.feed(b'Traceback:\n  somewhere\nBoom\n{"level": "error", "msg": "bad", "traceback": "a\\nb"}\n')
    pump.feed(b"{not json\n")
    log.configure("info", "text")
    pump.feed(b'{"level": "error", "msg": "bad", "traceback": "a\\nb"}\n')
    output.close()
    os.close(writer)
    with open(reader, "rb") as file:
        lines = file.read().decode().splitlines()
    assert lines.pop().endswith(" ERROR   worker: worker 7: bad / a / b")
    access = [line for line in lines if line.startswith(('{"ts":"one"', '{"ts":"two"'))]
    assert access == ['{"ts":"one"}', '{"ts":"two"}']
    events = [json.loads(line) for line in lines if line not in access]
    assert [(one["level"], one["event"], one["msg"], one.get("traceback")) for one in events] == [
        ("warning", "worker", "worker 7: so so", None),
        ("error", "worker", "worker 7: bad", "a\nb"),
        ("error", "worker", "worker 7: Boom", "Traceback:\n  somewhere\nBoom"),
        ("error", "worker", "worker 7: {not json", "{not json"),
    ]


def test_events_are_json_lines_of_a_level() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    output.start()
    log = EventLog(output, "warning")
    log.info("quiet", "not written")
    log.warning("loud", 'a "quoted" message', backend="10.0.1.10:6443")
    output.close()
    os.close(writer)
    with open(reader, "rb") as file:
        lines = [json.loads(line) for line in file.read().splitlines()]
    assert [(line["event"], line["level"], line["backend"]) for line in lines] == [
        ("loud", "warning", "10.0.1.10:6443")
    ]

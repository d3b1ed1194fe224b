"""/metrics: what is there, under which names, and what a scrape costs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trustme
from prometheus_client.parser import text_string_to_metric_families

from lbproxy.admin import totals
from lbproxy.admin.metrics import metrics
from lbproxy.core.check_counts import CheckCounts
from lbproxy.core.config import Address, Backend, BackendState, HealthCheck
from lbproxy.core.health import CheckReport, CheckResult, CheckTimes, Health, Verdict
from lbproxy.core.leases import LeaseReport, LeaseView
from lbproxy.core.messages import StreamStats
from tests.admin.test_admin import Fixed

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
UNREADY = CheckReport(0.0, CheckResult(Verdict.NOT_READY, "no", 500, (), "", CheckTimes(0.001, None, 0.2)), None, None)


@pytest.fixture
def view() -> Fixed:
    return Fixed()


def with_everything(view: Fixed) -> None:
    """Something of each kind has happened, and every optional series is there."""
    view.stats.streams = {"masters": [{"watch": StreamStats(1, [1, 0, 0, 0], 5.0)}, {}]}
    view.stats.leases.add(LeaseReport([LeaseView("kube-system/kube-scheduler", 1.0, 2.0, 7.0)], 1))
    stats = view.stats.pools["masters"][0]
    stats.retry("dial")
    stats.end("CD")
    counts = CheckCounts()
    result = replace(UNREADY.result, certificate_expires=2e9)
    counts.note(result, None, 0.0)
    view.seen = lambda one: replace(one, checks=counts, last=replace(UNREADY, result=result))


async def text_of(view: Fixed) -> str:
    return (await metrics(view)).decode()


async def test_every_metric_is_documented_and_every_documented_one_is_there(view: Fixed, tmp_path: Path) -> None:
    with_everything(view)
    have_certificates(view, tmp_path)
    families = {family.name: family.type for family in text_string_to_metric_families(await text_of(view))}
    page = PAGE.read_text()
    documented = dict(re.findall(r"^\| `(lbproxy_\w+?)(?:_total)?` \| (\w+)", page, re.MULTILINE))
    names = set(re.findall(r"^\| `(lbproxy_\w+)`", page, re.MULTILINE))
    assert documented == families
    assert names == {f"{name}_total" if kind == "counter" else name for name, kind in families.items()}


async def test_the_documented_labels_are_those_that_there_are(view: Fixed, tmp_path: Path) -> None:
    with_everything(view)
    have_certificates(view, tmp_path)
    rows = re.findall(r"^\| `(lbproxy_\w+?)(?:_total)?` \| \w+ \| ([a-z, ]*)\|", PAGE.read_text(), re.MULTILINE)
    documented = {name: set(labels.replace(" ", "").split(",")) - {""} for name, labels in rows}
    for family in text_string_to_metric_families(await text_of(view)):
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == documented[family.name], family.name


async def test_what_traffic_has_met(view: Fixed) -> None:
    stats = view.stats.pools["masters"][0]
    stats.dialled("ok", 0.002)
    stats.dialled("timeout", 1.0)
    stats.heads, stats.head_seconds, stats.responses = {0: 3, 9: 1}, 1.5, {2: 3, 5: 1}
    stats.end("sH")
    text = await text_of(view)
    backend = 'backend="10.0.1.10:6443"'
    for line in (
        f'lbproxy_backend_dial_seconds_bucket{{{backend},le="0.001",pool="masters",result="ok"}} 0.0',
        f'lbproxy_backend_dial_seconds_bucket{{{backend},le="0.0025",pool="masters",result="ok"}} 1.0',
        f'lbproxy_backend_dial_seconds_sum{{{backend},pool="masters",result="timeout"}} 1.0',
        f'lbproxy_backend_response_seconds_bucket{{{backend},le="0.5",pool="masters"}} 3.0',
        f'lbproxy_backend_response_seconds_bucket{{{backend},le="1.0",pool="masters"}} 4.0',
        f'lbproxy_backend_response_seconds_count{{{backend},pool="masters"}} 4.0',
        f'lbproxy_backend_response_seconds_sum{{{backend},pool="masters"}} 1.5',
        f'lbproxy_backend_responses_total{{{backend},class="5xx",pool="masters"}} 1.0',
        f'lbproxy_backend_terminations_total{{{backend},code="sH",pool="masters"}} 1.0',
    ):
        assert line in text, line
    assert 'result="refused"' not in text, "a result that never came has no series"
    assert 'lbproxy_backend_dial_seconds_count{backend="10.0.1.11:6443",pool="masters",result="ok"} 0.0' in text


async def test_what_checks_and_operators_say(view: Fixed) -> None:
    counts = CheckCounts()
    counts.note(UNREADY.result, None, 0.0)
    view.seen = lambda one: replace(
        one,
        config=replace(one.config, state=BackendState.DRAIN, max_connections=7),
        checks=counts,
        last=UNREADY,
        since=123.0,
        downtime=4.5,
    )
    text = await text_of(view)
    labels = 'backend="10.0.1.10:6443",pool="masters"'
    for line in (
        f'lbproxy_backend_state{{{labels},state="drain"}} 1.0',
        f'lbproxy_backend_state{{{labels},state="ready"}} 0.0',
        f"lbproxy_backend_max_connections{{{labels}}} 7.0",
        f"lbproxy_backend_checks_total{{{labels}}} 1.0",
        f'lbproxy_backend_check_failures_total{{{labels},stage="answer",verdict="not_ready"}} 1.0',
        f'lbproxy_backend_check_failures_total{{{labels},stage="connect",verdict="down"}} 0.0',
        f"lbproxy_backend_check_status_code{{{labels}}} 500.0",
        f'lbproxy_backend_check_stage_seconds_sum{{{labels},stage="answer"}} 0.2',
        f"lbproxy_backend_health_change_timestamp_seconds{{{labels}}} 123.0",
        f"lbproxy_backend_downtime_seconds_total{{{labels}}} 4.5",
        'lbproxy_pool_backends{pool="masters",tier="primary"} 2.0',
        'lbproxy_pool_eligible_backends{pool="masters",tier="primary"} 0.0',
    ):
        assert line in text, line
    assert 'stage="tls"} ' not in text, "no check came so far"


async def test_eligible_backends_are_counted_by_tier(view: Fixed) -> None:
    view.seen = lambda one: replace(one, config=replace(one.config, backup=one.config.address.port == 8080))
    text = await text_of(view)
    assert 'lbproxy_pool_eligible_backends{pool="masters",tier="primary"} 1.0' in text
    assert 'lbproxy_pool_eligible_backends{pool="doors",tier="primary"} 0.0' in text
    assert 'lbproxy_pool_eligible_backends{pool="doors",tier="backup"} 1.0' in text


async def test_processes_have_descriptors_and_a_limit_of_them(view: Fixed) -> None:
    samples = {
        (sample.name, sample.labels.get("process")): sample.value
        for family in text_string_to_metric_families(await text_of(view))
        for sample in family.samples
    }
    for process in ("control", "worker0"):
        used, limit = (samples[f"lbproxy_process_{name}_fds", process] for name in ("open", "max"))
        assert 0 < used < limit


def have_certificates(view: Fixed, folder: Path) -> None:
    """The first pool's checks use files: a client's certificate that ends first, and two CAs."""
    old, new = trustme.CA(), trustme.CA()
    client = old.issue_cert("lbproxy@example", not_after=datetime(2030, 1, 1, tzinfo=UTC))
    (folder / "client.pem").write_bytes(client.private_key_and_cert_chain_pem.bytes())
    (folder / "ca.pem").write_bytes(old.cert_pem.bytes() + new.cert_pem.bytes())
    check = HealthCheck(client_cert=str(folder / "client.pem"), ca_file=str(folder / "ca.pem"))
    first, *others = view.config.pools
    view.config = replace(view.config, pools=(replace(first, health_check=check), *others))


async def test_the_certificates_of_checks(view: Fixed, tmp_path: Path) -> None:
    have_certificates(view, tmp_path)
    text = await text_of(view)
    name = "lbproxy_check_certificate_expiry_timestamp_seconds"
    assert f'{name}{{file="client_cert",pool="masters"}} 1.893456e+09' in text
    assert f'{name}{{file="ca_file",pool="masters"}} ' in text
    (tmp_path / "client.pem").unlink()
    (tmp_path / "ca.pem").write_text("rubbish")
    assert f"{name}{{" not in await text_of(view), "what cannot be read is not guessed"


def many(view: Fixed, count: int) -> None:
    """A pool of so many backends that all have been busy."""
    backends = tuple(Backend(Address(f"10.1.{n >> 8}.{n & 255}:6443")) for n in range(count))
    view.config = replace(view.config, pools=(replace(view.config.pools[0], backends=backends), view.config.pools[1]))
    view.healths["masters"] = [Health.UP] * count
    view.stats = totals.empty(view.config)
    with_everything(view)
    for stats in view.stats.pools["masters"]:
        stats.dialled("ok", 0.001)
        stats.heads = {0: 1}


async def test_a_long_page_does_not_hold_up_what_else_the_control_plane_does(view: Fixed) -> None:
    many(view, 1000)
    turns = 0
    began = time.monotonic()

    async def check(done: Callable[[], bool]) -> None:
        nonlocal turns
        while not done():
            await trio.sleep(0.005)
            turns += 1

    page = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check, lambda: bool(page))
        page = await metrics(view)
    assert page.count(b"\n") > 50_000
    assert turns > 10, f"health checks got {turns} turns in {time.monotonic() - began:.1f} s"

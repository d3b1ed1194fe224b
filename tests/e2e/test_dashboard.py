"""The dashboard in a real browser, before a real lbproxy: what a person sees, and how soon."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from lbproxy.admin.client import Client
from tests.e2e.browser import Page
from tests.e2e.dashboard import GONE, apiservers, browser, config, opened, page, processes, row
from tests.e2e.process import free_port, lbproxy, wait_for

__all__ = ["browser", "page"]  # fixtures

WATCH = b"GET /api/v1/configmaps?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("dark", [False, True])
def test_a_backend_dies_and_the_page_says_so_within_two_seconds(page: Page, tmp_path: Path, dark: bool) -> None:
    """Idle, killed with its socket, and checked often; from the kill until the page shows it."""
    page.look(1280, 800, dark=dark)
    with apiservers(3) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        page.wait_text("All 3 backends get connections", "h1")
        victim = backends[1]
        wait_for(lambda: "up" in row(page, victim.address))
        died = time.monotonic()
        victim.die()
        wait_for(lambda: "down" in row(page, victim.address))
        assert time.monotonic() - died < 2.0
        assert "connection refused" in row(page, victim.address)
        assert page.text("h1") == "2 of 3 backends get connections"
        assert victim.address in page.text("#headline-more")
        assert page.js("document.title").startswith("2 of 3")
        assert page.js("document.getElementById('icon').getAttribute('href')") == "dashboard/warn.svg"
        said = f"backend {victim.address} of pool default is down: connection refused"
        page.wait_text(said, "#events")
        assert said in page.js("document.getElementById('announcer').textContent")
        strip = page.js("document.querySelectorAll('.strip')[1].getAttribute('aria-label')")
        assert " up, " in strip
        assert strip.endswith(" down")


def test_with_traffic_it_takes_no_longer_with_the_checks_that_are_the_default(page: Page, tmp_path: Path) -> None:
    """kill -9 of a process with a watch: that it breaks is a reason to ask at once."""
    with processes(3) as backends, lbproxy(tmp_path, config(backends, "")) as running, opened(page, running):
        page.wait_text("All 3 backends get connections", "h1")
        wait_for(lambda: all("up" in row(page, one.address).split() for one in backends))
        listen = running.status()["listeners"][0]["bind"][0].rpartition(":")
        with socket.create_connection((listen[0], int(listen[2])), 10) as client:
            client.sendall(WATCH)
            answer = b""
            while b'"MODIFIED"' not in answer:  # from then on it can go on elsewhere, and its break is a failure
                data = client.recv(65536)
                assert data, answer
                answer += data

            def streams() -> list[int]:
                return [one["long_streams"] for one in running.status()["pools"][0]["backends"]]

            wait_for(lambda: sum(streams()) == 1)
            victim = backends[streams().index(1)]
            died = time.monotonic()
            victim.die()
            wait_for(lambda: "down" in row(page, victim.address))
            assert time.monotonic() - died < 2.0
            assert running.events("backend_failed")


def test_a_frozen_balancer_is_seen_to_be_and_seen_to_be_back(page: Page, tmp_path: Path) -> None:
    with apiservers(1) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        running.process.send_signal(signal.SIGSTOP)
        try:
            page.wait_text(GONE, "#banners", seconds=5.0)
            assert "Last seen at " in page.text("#banners")
            assert page.text("#live").startswith("last seen ")
            assert page.js("document.body.className") == "stale"
            assert float(page.js("getComputedStyle(document.querySelector('main')).opacity")) < 1
        finally:
            running.process.send_signal(signal.SIGCONT)
        page.wait_text("live", "#live")
        assert page.text("h1") == "The backend gets connections"
        assert page.text("#banners") == ""
        assert page.js("document.body.className") == ""


def test_a_balancer_that_is_gone_is_said_to_be(page: Page, tmp_path: Path) -> None:
    with apiservers(1) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        running.stop()
        page.wait_text(GONE, "h1", seconds=5.0)
        assert page.js("document.title").startswith(GONE)
    page.complaints[:] = [text for text in page.complaints if "ERR_CONNECTION_REFUSED" not in text]


def test_a_refused_reload_is_a_banner_until_the_file_is_good_again(page: Page, tmp_path: Path) -> None:
    with apiservers(1) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        file = tmp_path / "lb.yaml"
        good = file.read_text()
        file.write_text(good + "balanced: yes\n")
        running.process.send_signal(signal.SIGHUP)
        page.wait_text("The last reload was refused", "#banners")
        assert "balanced" in page.text("#banners")
        assert "live" in page.text("#live")
        file.write_text(good)
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: page.text("#banners") == "")


def test_what_an_operator_does_is_shown(page: Page, tmp_path: Path) -> None:
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        Client([str(tmp_path / "lb.sock")]).post("/state", backend=backends[0].address, state="drain")
        wait_for(lambda: "drain" in row(page, backends[0].address))
        assert "set at run time" in row(page, backends[0].address)
        assert "taken out by an operator" in page.text("#headline-more")
        assert page.js("document.body.dataset.level") == "rest"


def test_what_a_backend_says_stays_text(page: Page, tmp_path: Path) -> None:
    hostile = b"<script>hacked=1</script><img src=x onerror='hacked=1'><b>"
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        backends[0].status, backends[0].body = 500, hostile
        wait_for(lambda: hostile.decode() in row(page, backends[0].address))
        assert "not ready" in row(page, backends[0].address)
        page.wait_text(hostile.decode(), "#events")
        assert page.js("typeof hacked") == "undefined"
        assert page.js("document.querySelectorAll('main script, img').length") == 0


def test_nobody_ready_is_said_in_the_headline(page: Page, tmp_path: Path) -> None:
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        for one in backends:
            one.status, one.body = 500, b"[-]etcd failed: reason withheld\n"
        page.wait_text("No backend is ready", "h1")
        assert "Those that are alive get the traffic" in page.text("#headline-more")
        for one in backends:
            one.die()
        page.wait_text("Everybody is refused", "#headline-more")
        assert page.js("document.body.dataset.level") == "down"


# What is wider than the card it is in; a card would hide that.
CUT = """[...document.querySelectorAll('.card, .summary')].flatMap(card => [...card.querySelectorAll('*')]
    .filter(node => !node.closest('thead, .line') && node.getClientRects().length)
    .filter(node => node.getBoundingClientRect().right > card.getBoundingClientRect().right + 1)
    .map(node => node.outerHTML.slice(0, 80)))
"""


def test_nothing_sticks_out_from_a_phone_to_a_wall(page: Page, tmp_path: Path) -> None:
    names = [f"a-pool-with-a-long-name-{number}" for number in range(5)]
    few = ", ".join(f"'[2001:db8:1111:2222:3333:4444:5555:666{number}]:6443'" for number in range(3))
    backends = f"{few}, " + ", ".join(f"127.0.0.{number}:1" for number in range(2, 8))
    file = f"listeners:\n  - {{bind: '127.0.0.1:{free_port()}', mode: http, pool: {names[0]}}}\n"
    file += "".join(f"  - {{bind: '127.0.0.1:{free_port()}', mode: tcp, pool: {name}}}\n" for name in names)
    file += f"pools:\n  {names[0]}: {{backends: [{few}]}}\n"
    file += "".join(f"  {name}: {{backends: [{backends}]}}\n" for name in names[1:])
    with lbproxy(tmp_path, file + "log: {access: off}\n") as running, opened(page, running):
        page.wait_text("5 pools have no ready backend", "h1")
        assert page.js("document.querySelectorAll('tr.backend').length") == 39
        for width in (320, 390, 768, 1280, 1920, 3840):
            page.look(width, 800)
            assert page.js("innerWidth") == width
            assert page.js("document.documentElement.scrollWidth") <= width
            assert page.js(CUT) == [], width

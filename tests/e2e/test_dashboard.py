"""The dashboard in a real browser, before a real lbproxy: what a person sees, and how soon."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from lbproxy.admin.client import Client
from tests.e2e.browser import Page, chromium
from tests.e2e.process import Lbproxy, free_port, lbproxy, wait_for

QUICK = "health_check: {interval: 300ms, fast_interval: 100ms, rise: 1}"
GONE = "The balancer does not answer"


class Apiserver:
    """Answers /readyz with what the test says, until it dies."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"ok"
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(told.status)
                self.send_header("Content-Length", str(len(told.body)))
                self.end_headers()
                self.wfile.write(told.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.address = f"127.0.0.1:{free_port()}"
        host, _, port = self.address.partition(":")
        self._server = ThreadingHTTPServer((host, int(port)), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.alive = True

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@contextmanager
def apiservers(number: int) -> Iterator[list[Apiserver]]:
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            found.append(Apiserver())
            stack.callback(found[-1].die)
        yield found


def config(backends: list[Apiserver]) -> str:
    addresses = ", ".join(one.address for one in backends)
    return f"listen: 127.0.0.1:{free_port()}\nmode: http\nbackends: [{addresses}]\n{QUICK}\nlog: {{access: off}}\n"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """Nothing but the balancer is asked, and in the end nothing was complained about."""
    browser.open("about:blank")  # what the test before has left, if it failed
    browser.look(1280, 800)
    browser.requests.clear()
    browser.complaints.clear()
    yield browser
    assert browser.complaints == []


@contextmanager
def opened(page: Page, running: Lbproxy) -> Iterator[None]:
    """The page of a running balancer, closed before that ends."""
    page.open(f"http://127.0.0.1:{running.admin}/")
    page.wait_text("get connections", "#pools")
    yield
    assert {urlsplit(url).netloc for url in page.requests} == {f"127.0.0.1:{running.admin}"}
    page.open("about:blank")


def row(page: Page, address: str) -> str:
    """What the table says of a backend."""
    script = "[...document.querySelectorAll('tr.backend')].map(row => row.innerText)"
    return next((text for text in page.js(script) if address in text), "")


def test_a_backend_dies_and_the_page_says_so_within_two_seconds(page: Page, tmp_path: Path) -> None:
    with apiservers(3) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        page.wait_text("All 3 backends get connections", "h1")
        victim = backends[1]
        wait_for(lambda: "up" in row(page, victim.address))
        victim.die()
        died = time.monotonic()
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


def test_what_a_screen_reader_is_told_and_a_keyboard_reaches(page: Page, tmp_path: Path) -> None:
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        wait_for(lambda: all(" up" in " ".join(row(page, one.address).split()) for one in backends))
        told = page.roles()
        roles = {role for role, _ in told}
        assert {"banner", "main", "contentinfo", "navigation", "alert", "status"} <= roles
        assert [name for role, name in told if role == "table"] == ["default"]
        heads = [name for role, name in told if role == "columnheader"]
        assert heads == ["Backend", "Checks", "Check time", "Per second", "Open", "Long streams"]
        rows = [name for role, name in told if role == "rowheader"]
        assert all(one.address in name and "up" in name for one, name in zip(backends, rows, strict=True))
        assert all(name for role, name in told if role in ("image", "img", "link", "region", "heading"))
        pictures = [name for role, name in told if role in ("image", "img")]
        assert len(pictures) == 2
        assert all(name.startswith("last ") and " up" in name for name in pictures)

        focused = []
        for _ in range(7):
            page.press("Tab", 9)
            focused.append(page.js("document.activeElement.textContent"))
            assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid", focused
        assert focused[0] == "To the pools"
        assert {"metrics", "status", "livez"} <= set(focused)


def test_nothing_sticks_out_from_a_phone_to_a_wall(page: Page, tmp_path: Path) -> None:
    names = [f"a-pool-with-a-long-name-{number}" for number in range(5)]
    backends = ", ".join(f"127.0.0.{number}:1" for number in range(2, 11))
    file = "listeners:\n"
    file += "".join(f"  - {{bind: '127.0.0.1:{free_port()}', mode: tcp, pool: {name}}}\n" for name in names)
    file += "pools:\n" + "".join(f"  {name}: {{backends: [{backends}]}}\n" for name in names)
    with lbproxy(tmp_path, file + "log: {access: off}\n") as running, opened(page, running):
        page.wait_text("5 pools have no ready backend", "h1")
        assert page.js("document.querySelectorAll('tr.backend').length") == 45
        for width in (320, 390, 768, 1280, 1920, 3840):
            page.look(width, 800)
            assert page.js("innerWidth") == width
            assert page.js("document.documentElement.scrollWidth") <= width

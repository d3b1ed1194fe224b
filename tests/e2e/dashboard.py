"""What the tests of the dashboard share: apiservers, a browser, the page of a running balancer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from tests.e2e.browser import Page, chromium
from tests.e2e.process import Lbproxy, free_port

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


class Process:
    """A simulated apiserver with a process of its own, for watches and for kill -9."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "lbproxy.demo.apiserver", "--life", "1"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.address = str(json.loads(self._process.stdout.readline())["address"])

    def die(self) -> None:
        """As often as one likes."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def processes(number: int) -> Iterator[list[Process]]:
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            found.append(Process())
            stack.callback(found[-1].die)
        yield found


def config(backends: Sequence[Apiserver | Process], checks: str = QUICK) -> str:
    addresses = ", ".join(one.address for one in backends)
    return f"listen: 127.0.0.1:{free_port()}\nmode: http\nbackends: [{addresses}]\n{checks}\nlog: {{access: off}}\n"


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

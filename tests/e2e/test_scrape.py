"""A scrape does not stall the data plane: a thousand watches, requests without a pause, and somebody who scrapes all
the time."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy, wait_for

WATCHES = 1000
WINDOW = 0.7  # seconds of requests, once with and once without a scraper
ROUNDS = 4
STALL = 0.05  # seconds that a scrape may add to the latency of one request in a hundred

WATCH = b"GET /api/v1/pods?watch=true&resourceVersion=0 HTTP/1.1\r\nHost: a\r\n\r\n"
REQUEST = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"


@contextmanager
def apiserver() -> Iterator[str]:
    """A simulated apiserver, in a process of its own; its address."""
    command = [sys.executable, "-m", "lbproxy.demo.apiserver", "--bind", "127.0.0.1:0", "--name", "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.kill()


def read_answer(sock: socket.socket) -> None:
    """A whole one, that has a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += received(sock)


def received(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    assert data, "the connection was closed"
    return data


def slowest_hundredth(sock: socket.socket) -> float:
    """The 99th percentile of the latency of requests one after the other, for as long as a window."""
    took: list[float] = []
    end = time.monotonic() + WINDOW
    while time.monotonic() < end or len(took) < 100:
        began = time.monotonic()
        sock.sendall(REQUEST)
        read_answer(sock)
        took.append(time.monotonic() - began)
    return sorted(took)[len(took) * 99 // 100]


class Scraper(threading.Thread):
    """Scrapes without a pause, until it is stopped."""

    def __init__(self, balancer: Lbproxy) -> None:
        super().__init__(daemon=True)
        self.scrapes = 0
        self._balancer = balancer
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            code, page = self._balancer.get("/metrics")
            assert code == 200
            assert f'lbproxy_backend_long_streams{{backend="{self._address}",pool="p"}}'.encode() in page
            self.scrapes += 1

    @contextmanager
    def at_work(self, address: str) -> Iterator[None]:
        self._address = address
        self.start()
        try:
            wait_for(lambda: self.scrapes > 0, "no scrape")
            yield
        finally:
            self._stopped.set()
            self.join(PATIENCE)


def test_requests_are_answered_as_fast_while_somebody_scrapes(tmp_path: Path) -> None:
    """The best of several windows each: whatever else this machine does, it does not do in all of them."""
    port = free_port()
    with ExitStack() as stack:
        address = stack.enter_context(apiserver())
        text = (
            f"listeners: [{{name: api, bind: '127.0.0.1:{port}', mode: http, pool: p}}]\n"
            f"pools: {{p: {{backends: ['{address}']}}}}\nhttp: {{recovery_rate: 0}}\nlog: {{access: off}}"
        )
        balancer = stack.enter_context(lbproxy(tmp_path, text))
        for _ in range(WATCHES):
            watch = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            watch.sendall(WATCH)
        wait_for(lambda: balancer.status()["pools"][0]["backends"][0]["long_streams"] == WATCHES, "the watches")
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
        undisturbed, scraped, scrapes = [], [], 0
        for _ in range(ROUNDS):
            undisturbed.append(slowest_hundredth(client))
            scraper = Scraper(balancer)
            with scraper.at_work(address):
                scraped.append(slowest_hundredth(client))
            scrapes += scraper.scrapes
        assert scrapes > 2 * ROUNDS, "it has scraped again and again"
        assert min(scraped) < min(undisturbed) + STALL, f"without: {undisturbed}, with: {scraped}, {scrapes} scrapes"

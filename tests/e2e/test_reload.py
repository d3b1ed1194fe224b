"""Reloading under load: what did not change does not notice, and a file that is refused changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import PATIENCE, Lbproxy, admin_section, free_port, lbproxy, wait_for

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WATCH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
PACE = 0.02  # seconds between two events of a watch


class Master:
    """Answers requests, and watches with one event after the other from the version on that was asked for."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.served = 0
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=512)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for sock in list(self._open):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listening.accept()
            except OSError:
                return
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            data = b""
            while chunk := sock.recv(65536):
                data += chunk
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    self.served += b"/readyz" not in head
                    if asked := re.search(rb"watch=true", head):
                        self._watch(sock, int(re.search(rb"resourceVersion=(\d+)", asked.string)[1]))  # type: ignore[index]
                    self._before_answer(head)
                    sock.sendall(OK)
                    if b"Connection: close" in head:
                        return
        except OSError:
            return
        finally:
            self._open.discard(sock)
            sock.close()

    def _before_answer(self, head: bytes) -> None:
        """Nothing is waited for."""

    @staticmethod
    def _watch(sock: socket.socket, version: int) -> None:
        sock.sendall(WATCH)
        while True:
            version += 1
            event = {"type": "ADDED", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(version)}}}
            line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
            sock.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            time.sleep(PACE)


class Load:
    """Clients in threads that must not notice anything. `errors` are what they did."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.requests = 0
        self.events = 0
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def start(self, client: Callable[[int], None], port: int, count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._guard, args=(client, port), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def ask(self, port: int) -> None:
        """Requests on one connection that is never closed, in either mode."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            while not self._stopped:
                sock.sendall(b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = b""
                while not answer.endswith(b"ok"):
                    got = sock.recv(65536)
                    if not got:
                        raise ConnectionError(f"closed by lbproxy, after {answer!r}")
                    answer += got
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise ValueError(repr(answer))
                self.requests += 1

    def ask_anew(self, port: int) -> None:
        """A connection for each request."""
        while not self._stopped:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                sock.sendall(b"GET /api HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b""
                while got := sock.recv(65536):
                    answer += got
                if not answer.endswith(b"ok"):
                    raise ValueError(repr(answer))
                self.requests += 1

    def watch(self, port: int) -> None:
        """One watch for all the time; each event once and in order."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(b"GET /api/v1/pods?watch=true&resourceVersion=100 HTTP/1.1\r\nHost: a\r\n\r\n")
            version, data = 100, b""
            while not self._stopped:
                got = sock.recv(65536)
                if not got:
                    raise ConnectionError("the watch has ended")
                *lines, data = (data + got).split(b"\n")
                for line in lines:
                    if seen := re.search(rb'"resourceVersion":"(\d+)"', line):
                        if int(seen[1]) != version + 1:
                            raise ValueError(f"after {version} comes {int(seen[1])}")
                        version += 1
                        self.events += 1

    def _guard(self, client: Callable[[int], None], port: int) -> None:
        try:
            client(port)
        except (OSError, ValueError) as error:
            self.errors.append(f"{client.__name__}: {error!r}")


@pytest.fixture
def masters() -> Iterator[list[Master]]:
    with ExitStack() as stack:
        made = [Master() for _ in range(3)]
        for master in made:
            stack.callback(master.close)
        yield made


class Site:
    """lb.yaml in its variants."""

    def __init__(self, masters: list[Master]) -> None:
        self.masters = masters
        self.http, self.tcp, self.extra = free_port(), free_port(), free_port()

    def text(
        self, count: int = 3, *, extra: bool = False, connect: float = 1.0, workers: int = 2, more: str = ""
    ) -> str:
        listeners = [
            f"  - {{name: http, bind: '127.0.0.1:{self.http}', mode: http, pool: p, timeouts: {{connect: {connect}}}}}",
            f"  - {{name: tcp, bind: '127.0.0.1:{self.tcp}', mode: tcp, pool: q}}",
        ]
        if extra:
            listeners.insert(0, f"  - {{name: extra, bind: '127.0.0.1:{self.extra}', mode: tcp, pool: p}}")
        backends = ", ".join(f"'{master.address}'" for master in self.masters[:count])
        every = ", ".join(f"'{master.address}'" for master in self.masters)
        check = "health_check: {type: http, interval: 200ms}"
        return (
            f"workers: {workers}\nlog: {{access: off}}\nlisteners:\n"
            + "\n".join(listeners)
            + f"\npools:\n  p: {{backends: [{backends}], {check}}}\n"
            + f"  q: {{backends: [{every}], balance: least_conn, {check}}}\n{more}"
        )


def reload(lb: Lbproxy, directory: Path, text: str, event: str = "reload") -> dict[str, Any]:
    """Write lb.yaml, send SIGHUP, and wait for what the log says of it."""
    before = len(lb.events(event))
    (directory / "lb.yaml").write_text(f"{text}\n{admin_section(directory, lb.admin)}")
    lb.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(lb.events(event)) > before, f"no {event}: {lb.log.read_text()[-2000:]}")
    return lb.events(event)[-1]


def pids(lb: Lbproxy) -> list[int]:
    return [lb.process.pid, *(worker["pid"] for worker in lb.status()["workers"])]


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_hundred_reloads_under_load_disturb_nobody(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    load = Load()
    variants = [
        site.text(),
        site.text(2),  # a backend removed
        site.text(2, connect=0.7),  # another timeout
        site.text(3, extra=True),  # a backend and a listener added
        site.text(3, more="http: {max_header: 64KiB}\n"),
    ]
    with lbproxy(tmp_path, site.text()) as lb:
        before = pids(lb)
        load.start(load.ask, site.http, 3)
        load.start(load.ask, site.tcp, 3)
        load.start(load.ask_anew, site.http, 1)
        load.start(load.ask_anew, site.tcp, 1)
        load.start(load.watch, site.http, 6)
        size: list[tuple[int, int]] = []
        for number in range(1, 101):
            reload(lb, tmp_path, variants[number % len(variants)])
            assert not load.errors
            if number in (20, 100):  # both with the same variant
                size.append((sum(map(fds, pids(lb))), sum(map(rss, pids(lb)))))
        assert pids(lb) == before
        events = load.events
        wait_for(lambda: load.events > events + 20, "the watches stand still")
        load.stop()
        assert not load.errors
        assert load.requests > 1000
        status = lb.status()
        assert status["config"]["error"] is None
        (fds_before, rss_before), (fds_after, rss_after) = size
        assert fds_after <= fds_before + 10  # kept connections to backends come and go
        assert rss_after <= rss_before + 12 * 2**20
        accepted = {one["name"]: one["accepted"] for one in status["listeners"]}
        assert accepted["http"] > 9


def test_a_file_that_is_refused_changes_nothing(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text()) as lb:
        sha256 = lb.status()["config"]["sha256"]
        line = reload(lb, tmp_path, site.text().replace("mode: tcp", "mode: udp"), "reload_failed")
        assert "udp" in line["msg"]
        status = lb.status()
        assert "udp" in status["config"]["error"]
        assert status["config"]["sha256"] == sha256
        assert b"lbproxy_config_last_reload_successful 0.0" in lb.get("/metrics")[1]
        with socket.create_server(("127.0.0.1", site.extra)):
            line = reload(lb, tmp_path, site.text(2, extra=True), "reload_failed")
            assert f"cannot listen on 127.0.0.1:{site.extra}" in line["msg"]
        assert [len(pool["backends"]) for pool in lb.status()["pools"]] == [3, 3]
        reload(lb, tmp_path, site.text(2, extra=True))
        assert [len(pool["backends"]) for pool in lb.status()["pools"]] == [2, 3]
        assert lb.status()["config"]["error"] is None
        assert b"lbproxy_config_last_reload_successful 1.0" in lb.get("/metrics")[1]


def test_what_is_added_serves_and_what_is_removed_does_not(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    load = Load()
    with lbproxy(tmp_path, site.text(1)) as lb:
        load.start(load.watch, site.http, 4)
        wait_for(lambda: load.events > 20)
        assert not masters[1].served
        line = reload(lb, tmp_path, site.text(2, extra=True))
        assert line["changes"] == [
            "listener extra added",
            f"backend {masters[1].address} added to pool p",
        ]
        one = Load()
        one.start(one.ask_anew, site.extra, 1)
        wait_for(lambda: masters[1].served > 5 and one.requests > 10)
        one.stop()
        assert not one.errors
        site.masters = masters[1:]
        reload(lb, tmp_path, site.text(1))  # the watches' own backend is in it no more
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", site.extra), PATIENCE)
        wait_for(lambda: lb.status()["pools"][0]["backends"][0]["long_streams"] == 4, "the watches have not moved")
        events = load.events
        wait_for(lambda: load.events > events + 20)
        load.stop()
        assert not load.errors


def test_a_tcp_connection_to_a_removed_backend_has_the_drain_timeout(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters[:1])
    text = site.text().replace("balance: least_conn", "drain_timeout: 1s, close_spread: 0s")
    with (
        lbproxy(tmp_path, text) as lb,
        socket.create_connection(("127.0.0.1", site.tcp), PATIENCE) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(100) == OK
        site.masters = masters[1:2]
        began = time.monotonic()
        reload(lb, tmp_path, site.text().replace("balance: least_conn", "drain_timeout: 1s, close_spread: 0s"))
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
        assert time.monotonic() - began > 0.9


def test_a_worker_that_dies_after_a_reload_is_replaced_by_one_that_knows_it(
    tmp_path: Path, masters: list[Master]
) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text(1)) as lb:
        reload(lb, tmp_path, site.text(2, extra=True))
        for pid in pids(lb)[1:]:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(lb.events("worker_ready")) == 4)
        load = Load()
        load.start(load.ask_anew, site.extra, 2)
        wait_for(lambda: masters[1].served > 5 and load.requests > 10)
        load.stop()
        assert not load.errors


def test_workers_come_and_go(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    load = Load()
    with lbproxy(tmp_path, site.text(workers=1)) as lb:
        load.start(load.ask_anew, site.http, 1)
        load.start(load.ask, site.http, 2)
        reload(lb, tmp_path, site.text(workers=3))
        wait_for(lambda: len(lb.events("worker_ready")) == 3)
        load.start(load.watch, site.http, 30)
        load.start(load.ask, site.tcp, 30)
        wait_for(lambda: load.events > 300)
        reload(lb, tmp_path, site.text(workers=1))
        wait_for(lambda: len(lb.status()["workers"]) == 1)  # long before watches end, or a drain is over
        wait_for(lambda: len(lb.events("taken_over")) == 2)
        assert sum(line["connections"] for line in lb.events("taken_over")) > 10
        requests, events = load.requests, load.events
        wait_for(lambda: load.requests > requests + 100 and load.events > events + 300)
        watches = lb.status()["listeners"][0]["watches"]
        assert watches["resumed"] == watches["rebalanced"], "the move itself has cost a watch its backend"
        load.stop()
        assert not load.errors
        assert not lb.events("worker_died")


def test_workers_that_leave_may_be_reloaded_and_wanted_again(tmp_path: Path) -> None:
    """What waits for its answer cannot move yet; each reload finds the worker still leaving."""
    master = PatientMaster()
    site = Site([master])
    with lbproxy(tmp_path, site.text(1)) as lb, ExitStack() as stack:
        stack.callback(master.close)
        first = lb.status()["workers"][0]["pid"]
        os.kill(first, signal.SIGSTOP)  # so that the other one, which will leave, gets them
        try:
            clients = [socket.create_connection(("127.0.0.1", site.http), PATIENCE) for _ in range(5)]
            for client in clients:
                stack.enter_context(client)
                client.sendall(b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_for(lambda: master.served == len(clients))
        finally:
            os.kill(first, signal.SIGCONT)
        for connect in (0.8, 0.7, 0.6):
            reload(lb, tmp_path, site.text(1, workers=1, connect=connect))
        assert len(lb.status()["workers"]) == 2
        reload(lb, tmp_path, site.text(1, workers=2))
        master.answer.set()
        for _ in range(2):
            for client in clients:
                assert client.recv(len(OK), socket.MSG_WAITALL) == OK
                client.sendall(b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: len(lb.events("worker_ready")) == 3)
        assert [one["ready"] for one in lb.status()["workers"]] == [True, True]
        assert not lb.events("worker_died")
        assert b"lbproxy_worker_restarts_total 0.0" in lb.get("/metrics")[1]


class PatientMaster(Master):
    """Answers nobody but checks before it is told to."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        super().__init__()

    def _before_answer(self, head: bytes) -> None:
        if b"/readyz" not in head:
            self.answer.wait(PATIENCE)

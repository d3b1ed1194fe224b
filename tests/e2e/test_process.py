"""The real process: its workers, signals, admin endpoint, health checks, and what happens when things die."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy, wait_for

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Backend:
    """Answers every request with `ok`, and /readyz with whatever `ready` says."""

    def __init__(self) -> None:
        self.port = free_port()
        self.ready = 200
        self.served = 0
        self._listening: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.start()

    def start(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=512)
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def stop(self) -> None:
        """As a killed process: refuse, and reset what is open."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        for sock in list(self._open):
            sock.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _address = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self._open.add(sock)
        try:
            data = b""
            while chunk := sock.recv(65536):
                data += chunk
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    if b"/readyz" in head:
                        body = b"[-]shutdown failed: reason withheld\n" if self.ready != 200 else b"ok"
                        answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (self.ready, len(body), body)
                        sock.sendall(answer)
                    else:
                        self.served += 1
                        sock.sendall(REPLY)
        except OSError:
            return
        finally:
            self._open.discard(sock)
            sock.close()


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    made = [Backend(), Backend()]
    yield made
    for backend in made:
        backend.stop()


def config(port: int, backends: list[Backend], mode: str = "tcp", check: str = "none", extra: str = "") -> str:
    addresses = ", ".join(f"'127.0.0.1:{backend.port}'" for backend in backends)
    return (
        f"listeners: [{{name: api, bind: '127.0.0.1:{port}', mode: {mode}, pool: masters}}]\n"
        f"pools: {{masters: {{backends: [{addresses}], health_check: {{type: {check}}}}}}}\n{extra}"
    )


@contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        yield sock


def ask(sock: socket.socket) -> bytes:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    data = b""
    while not data.endswith(b"\r\n\r\nok") and (chunk := sock.recv(1000)):
        data += chunk
    return data


def worker_pids(running: Lbproxy) -> list[int]:
    return [worker["pid"] for worker in running.status()["workers"] if worker["ready"]]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced_and_nobody_is_refused(
    tmp_path: Path, backends: list[Backend], workers: int
) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, extra=f"workers: {workers}")) as running:
        before = worker_pids(running)
        assert len(before) == workers
        stop = threading.Event()
        outcomes: list[str] = []

        def hammer() -> None:
            while not stop.is_set():
                try:
                    with connection(port) as sock:
                        outcomes.append("served" if ask(sock).endswith(b"ok") else "cut")
                except ConnectionRefusedError:
                    outcomes.append("refused")
                except OSError:
                    outcomes.append("cut")

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: running.status()["listeners"][0]["accepted"] > 100)
        known = running.status()["listeners"][0]["accepted"]
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(worker_pids(running)) == workers and before[0] not in worker_pids(running))
        count = len(outcomes)
        wait_for(lambda: len(outcomes) > count + 100)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert "refused" not in outcomes
        assert outcomes.count("cut") <= 4  # what the dead worker held, one connection for each thread at most
        died = running.wait_event("worker_died")
        assert "was killed by SIGKILL" in died["msg"]
        total = running.status()["listeners"][0]["accepted"]
        assert total > known, "the dead worker's counters are lost"


def test_sigterm_drains(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, extra="shutdown: {drain: 20s}")) as running:
        assert running.get("/readyz")[0] == 200
        with connection(port) as sock:
            assert ask(sock).endswith(b"ok")
            running.process.send_signal(signal.SIGTERM)
            wait_for(lambda: running.get("/readyz")[0] == 503)
            assert running.get("/livez")[0] == 200
            wait_for(lambda: _refused(port))
            assert ask(sock).endswith(b"ok"), "an open connection is drained, not cut"
        assert running.process.wait(PATIENCE) == 0


def test_sigterm_in_http_mode_ends_idle_connections_and_finishes_requests(
    tmp_path: Path, backends: list[Backend]
) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, "http", extra="shutdown: {drain: 20s}")) as running:
        with connection(port) as idle:
            assert ask(idle).endswith(b"ok")
            running.process.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""
        assert running.process.wait(PATIENCE) == 0


def test_the_drain_time_is_a_bound(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, extra="shutdown: {drain: 500ms}")) as running:
        with connection(port) as sock:
            assert ask(sock).endswith(b"ok")
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert running.process.wait(PATIENCE) == 0
        assert running.events("close")[-1]["end"] == "KD"


def test_a_second_sigterm_stops_at_once(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, extra="shutdown: {drain: 60s}")) as running:
        with connection(port) as sock:
            assert ask(sock).endswith(b"ok")
            running.process.send_signal(signal.SIGTERM)
            wait_for(lambda: _refused(port))
            assert running.status()["listeners"][0]["active"] == 1
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(PATIENCE) == 0
        assert running.events("close")[-1]["end"] == "KD", "it was killed instead of told"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_workers_start(tmp_path: Path, backends: list[Backend], number: int) -> None:
    port = free_port()
    file = tmp_path / "lb.yaml"
    file.write_text(config(port, backends, extra=f"workers: 2\nadmin: {{bind: '127.0.0.1:{free_port()}'}}"))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lbproxy", "-c", str(file)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        # a connection is taken by the socket as soon as it is open: long before a worker runs
        wait_for(lambda: not _refused(port))
        wait_for(lambda: _catches(process.pid, number))
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert "Traceback" not in log.read_text()
        assert _refused(port)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_sigint_and_sigquit_stop_at_once(tmp_path: Path, backends: list[Backend], number: int) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends)) as running, connection(port) as sock:
        assert ask(sock).endswith(b"ok")
        pids = worker_pids(running)
        began = time.monotonic()
        assert running.stop(number) == 0
        assert time.monotonic() - began < 3
        assert all(gone(pid) for pid in pids)


def test_workers_end_when_the_control_plane_is_killed(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, extra="workers: 2\nshutdown: {drain: 1s}")) as running:
        pids = worker_pids(running)
        running.process.kill()
        running.process.wait()
        wait_for(lambda: all(gone(pid) for pid in pids), "a worker has outlived its control plane")
        socket.create_server(("127.0.0.1", port)).close()  # the address is free for the successor


def test_a_bad_configuration_binds_nothing(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "lb.yaml"
    file.write_text(f"listen: 127.0.0.1:{port}\nmode: htpp\nbackends: []\n")
    done = subprocess.run(
        [sys.executable, "-m", "lbproxy", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "lb.yaml:2:" in done.stderr
    assert "lb.yaml:3:" in done.stderr
    assert _refused(port)


def test_a_busy_address_is_named(tmp_path: Path, backends: list[Backend]) -> None:
    file = tmp_path / "lb.yaml"
    file.write_text(config(backends[0].port, backends))
    done = subprocess.run(
        [sys.executable, "-m", "lbproxy", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{backends[0].port}: Address already in use" in done.stderr


def test_an_address_that_no_interface_has_is_bound(tmp_path: Path, backends: list[Backend]) -> None:
    text = config(free_port(), backends).replace("bind: '127.0.0.1:", "bind: '192.0.2.13:")
    with lbproxy(tmp_path, text) as running:
        assert running.get("/readyz")[0] == 200


def test_the_admin_endpoint(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, "http", "http")) as running:
        wait_for(lambda: len(running.events("health")) == 2)
        with connection(port) as sock:
            for _ in range(10):
                ask(sock)
        assert running.get("/livez") == (200, b"ok\n")
        assert running.get("/healthz/backends")[0] == 200
        assert running.get("/healthz/backends?min=3") == (503, b"masters: 2 of 2 eligible\n")
        assert running.get("/healthz/backends?min=x")[0] == 400
        assert running.get("/healthz/backends?pool=nope")[0] == 404
        status, pages = running.get("/nope")
        assert (status, b"/metrics" in pages) == (404, True)
        assert running.get("/")[1].startswith(b"<!doctype html>")
        values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(running.get("/metrics")[1].decode())
            for sample in family.samples
        }
        assert values["lbproxy_listener_requests_total", (("listener", "api"),)] == 10
        assert values["lbproxy_listener_responses_total", (("class", "2xx"), ("listener", "api"))] == 10
        assert values["lbproxy_workers", ()] == 1
        for backend in backends:
            labels = (("backend", f"127.0.0.1:{backend.port}"), ("pool", "masters"))
            assert values["lbproxy_backend_connections_total", labels] == 5
            assert values["lbproxy_backend_eligible", labels] == 1
        shown = running.status()
        assert shown["listeners"][0]["requests"] == 10
        assert [one["health"] for one in shown["pools"][0]["backends"]] == ["up", "up"]
        assert shown["pools"][0]["backends"][0]["check"]["status"] == 200
        for junk in (b"\x16\x03\x01", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b""):
            with connection(running.admin) as sock:
                sock.sendall(junk)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass
        assert running.get("/livez")[0] == 200


def test_a_backend_that_stops_is_out_and_one_that_returns_is_used(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    text = config(port, backends, "http", "http").replace("health_check", "slow_start: 0s, health_check")
    with lbproxy(tmp_path, text) as running:
        wait_for(lambda: len(running.events("health")) == 2)
        backends[0].stop()
        began = time.monotonic()
        wait_for(lambda: running.status()["pools"][0]["backends"][0]["health"] == "down")
        assert time.monotonic() - began < 5
        with connection(port) as sock:
            for _ in range(6):
                assert ask(sock).endswith(b"ok")
        assert "connection refused" in running.events("health")[-1]["reason"]
        backends[0].start()
        served = backends[0].served
        wait_for(lambda: running.status()["pools"][0]["backends"][0]["health"] == "up")
        with connection(port) as sock:
            for _ in range(4):
                ask(sock)
        assert backends[0].served >= served + 2


def test_a_backend_that_shuts_down_gets_nothing_new(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, "tcp", "http")) as running:
        wait_for(lambda: len(running.events("health")) == 2)
        with connection(port) as old:
            assert ask(old).endswith(b"ok")
            holder = next(backend for backend in backends if backend.served)
            holder.ready = 500
            index = backends.index(holder)
            wait_for(lambda: running.status()["pools"][0]["backends"][index]["health"] == "not_ready")
            served = holder.served
            for _ in range(4):
                with connection(port) as sock:
                    assert ask(sock).endswith(b"ok")
            assert holder.served == served
            assert ask(old).endswith(b"ok"), "what is connected stays connected"


def test_a_failure_in_live_traffic_is_checked_and_forgotten_when_refuted(
    tmp_path: Path, backends: list[Backend]
) -> None:
    port = free_port()
    with lbproxy(tmp_path, config(port, backends, "tcp", "http")) as running:
        wait_for(lambda: len(running.events("health")) == 2)
        backends[0].stop()
        for _ in range(2):
            with connection(port) as sock:
                assert ask(sock).endswith(b"ok")
        assert "failed in live traffic: Connection refused" in running.wait_event("backend_failed")["msg"]
        backends[0].start()
        served = backends[0].served

        def used_again() -> bool:
            with connection(port) as sock:
                ask(sock)
            return backends[0].served > served

        wait_for(used_again, "max_fails keeps it out although the checks say that it is up", 8)


def test_few_file_descriptors(tmp_path: Path, backends: list[Backend]) -> None:
    """R43: out of descriptors accepting pauses, and what is connected goes on."""
    port = free_port()
    file = tmp_path / "lb.yaml"
    text = config(port, backends, extra=f"admin: {{bind: '127.0.0.1:{free_port()}'}}")
    file.write_text(text.replace("pool: masters}", "pool: masters, max_connections: 1000}", 1))
    command = f"ulimit -n 64; exec {sys.executable} -m lbproxy -c {file}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["bash", "-c", command], stdout=log, stderr=subprocess.STDOUT)
    try:
        running = Lbproxy(process, tmp_path / "log", 0)
        running.wait_event("ready")
        running.wait_event("few_fds")
        with connection(port) as first:
            assert ask(first).endswith(b"ok")
            crowd = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(80)]
            wait_for(lambda: b"accepting pauses" in running.log.read_bytes())
            assert ask(first).endswith(b"ok")
            for sock in crowd:
                sock.close()
            wait_for(lambda: _serves(port), "it does not recover")
        assert running.stop() == 0
    finally:
        process.kill()
        process.wait()


def test_the_log_is_json_and_survives_a_reader_that_stops(tmp_path: Path, backends: list[Backend]) -> None:
    port = free_port()
    file = tmp_path / "lb.yaml"
    file.write_text(config(port, backends, "http", extra=f"admin: {{bind: '127.0.0.1:{free_port()}'}}"))
    process = subprocess.Popen(
        [sys.executable, "-m", "lbproxy", "-c", str(file)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: not _refused(port))
        assert process.stdout is not None
        with connection(port) as sock:  # nobody reads stdout: far more lines than the pipes hold
            for _ in range(3000):
                assert ask(sock).endswith(b"ok")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        process.stdout.close()
    finally:
        process.kill()
        process.wait()


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal: SIGINT had Python's from the start."""
    caught = int(re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0], 16)
    return all(caught >> (each - 1) & 1 for each in (number, signal.SIGTERM, signal.SIGUSR2))


def _refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def _serves(port: int) -> bool:
    try:
        with connection(port) as sock:
            return ask(sock).endswith(b"ok")
    except OSError:
        return False

"""Upgrades under load: another version goes on with the same process, the same sockets and the same connections."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import lbproxy as package
from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy, wait_for
from tests.e2e.test_reload import OK, Load, Master, Site, fds, pids, reload
from tests.e2e.test_verbs import do, say

GET = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def masters() -> Iterator[list[Master]]:
    with ExitStack() as stack:
        made = [Master() for _ in range(3)]
        for master in made:
            stack.callback(master.close)
        yield made


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of lbproxy, to be another version."""
    directory = tmp_path / "installed"
    shutil.copytree(Path(package.__file__).parent, directory / "lbproxy", ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def edit(copy: Path, file: str, pattern: str, text: str) -> None:
    path = copy / "lbproxy" / file
    content, count = re.subn(pattern, text, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(content)


def settled(lb: Lbproxy, upgrades: int) -> bool:
    return len(lb.events("upgraded")) == upgrades and lb.status()["handing_over"] == 0


def test_upgrades_under_load(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    load = Load()
    with lbproxy(tmp_path, site.text()) as lb:
        pid, *workers = pids(lb)
        for port in (site.http, site.tcp):
            load.start(load.ask, port, 4)
            load.start(load.ask_anew, port, 1)
        load.start(load.watch, site.http, 20)
        wait_for(lambda: load.events > 200)
        open_before = 0
        for number in range(1, 4):
            lb.process.send_signal(signal.SIGUSR2)
            wait_for(lambda number=number: settled(lb, number), "it has not settled")  # type: ignore[misc]
            requests, events = load.requests, load.events
            wait_for(lambda r=requests, e=events: load.requests > r + 100 and load.events > e + 200)  # type: ignore[misc]
            open_before = open_before or fds(pid)
        assert not load.errors
        assert pids(lb)[0] == pid
        assert not set(pids(lb)) & set(workers)
        wait_for(lambda: fds(pid) <= open_before, "descriptors leak")  # a check under way has some
        assert sum(line["connections"] for line in lb.events("taken_over")) >= 3 * 20
        status = lb.status()
        assert status["listeners"][0]["active"] >= 24
        assert sum(one["long_streams"] for one in status["pools"][0]["backends"]) == 20
        watches = status["listeners"][0]["watches"]
        assert watches["resumed"] == watches["rebalanced"], "an upgrade has cost a watch its backend"
        load.stop()
        assert not load.errors
        assert not lb.events("worker_died")
        assert lb.stop(signal.SIGTERM) == 0
    left = [name for name in os.listdir("/proc") if name.isdigit() and _is_ours(name, tmp_path)]
    assert left == []


def _is_ours(pid: str, directory: Path) -> bool:
    try:
        return str(directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_another_version_knows_what_this_one_knew(tmp_path: Path, masters: list[Master], copy: Path) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text(), copy) as lb:
        wait_for(lambda: all(one["health"] == "up" for one in lb.status()["pools"][0]["backends"]))
        before = lb.status()
        do(tmp_path, "drain", masters[0].address, "--pool", "p")
        do(tmp_path, "weight", masters[1].address, "7", "--pool", "p")
        file = tmp_path / "lb.yaml"
        good = file.read_text()
        file.write_text("not: [yaml")  # the configuration in force counts
        with socket.create_connection(("127.0.0.1", site.tcp), PATIENCE) as relay:
            relay.sendall(GET)
            assert relay.recv(100) == OK
            edit(copy, "__init__.py", r'^__version__ = ".*"', '__version__ = "99.0.0"')
            assert do(tmp_path, "upgrade") == f"upgraded from {before['version']} to 99.0.0\n"
            relay.sendall(GET)
            assert relay.recv(100) == OK
        after = lb.status()
        assert (after["version"], after["upgraded_from"]) == ("99.0.0", before["version"])
        assert after["config"]["sha256"] == before["config"]["sha256"]
        backends = after["pools"][0]["backends"]
        assert [one["since"] for one in backends] == [one["since"] for one in before["pools"][0]["backends"]]
        assert [one["health"] for one in backends] == ["up"] * 3
        assert (backends[0]["state"], backends[1]["weight"]) == ("drain", 7)
        assert backends[0]["set_at_runtime"]
        file.write_text(good)
        line = reload(lb, tmp_path, site.text(2))
        assert line["changes"] == [f"backend {masters[2].address} removed from pool p"]
        assert lb.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("file", "pattern", "text", "complaint"),
    [
        ("dataplane/worker.py", r"^import array", "import missing_module", "No module named 'missing_module'"),
        ("core/handover.py", r"^FORMAT = \d+", "FORMAT = 999", "in format 999"),
        ("core/config.py", r"^    slow_start: ", "    slow_begin: ", "refuses the configuration in force"),
    ],
)
def test_a_version_that_cannot_take_over_is_refused(
    tmp_path: Path, masters: list[Master], copy: Path, file: str, pattern: str, text: str, complaint: str
) -> None:
    site = Site(masters)
    load = Load()
    with lbproxy(tmp_path, site.text(), copy) as lb:
        before = pids(lb)
        load.start(load.watch, site.http, 2)
        load.start(load.ask, site.tcp, 1)
        edit(copy, file, pattern, text)
        refused = say(tmp_path, "upgrade")
        assert refused.returncode == 1
        assert complaint in refused.stderr
        requests, events = load.requests, load.events
        wait_for(lambda: load.requests > requests + 50 and load.events > events + 50)
        load.stop()
        assert not load.errors
        assert pids(lb) == before
        assert complaint in lb.events("upgrade_failed")[0]["msg"]


def test_stopping_while_the_old_version_still_has_connections(tmp_path: Path) -> None:
    """A request that is not answered cannot move; it has the time that a drain gives it."""
    with socket.create_server(("127.0.0.1", free_port())) as silent, ExitStack() as stack:
        port = free_port()
        backend = "{}:{}".format(*silent.getsockname())
        config = (
            f"listen: '127.0.0.1:{port}'\nmode: http\nbackends: ['{backend}']\nshutdown: {{drain: 3s}}\n"
            "health_check: {type: none}\n"
        )
        lb = stack.enter_context(lbproxy(tmp_path, config))
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
        client.sendall(GET)
        wait_for(lambda: lb.status()["pools"][0]["backends"][0]["active"] == 1)
        lb.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: bool(lb.events("upgraded")))
        assert lb.status()["handing_over"] == 1
        again = say(tmp_path, "upgrade")
        assert again.returncode == 1
        assert "still hand over" in again.stderr
        served, _ = silent.accept()
        with served:
            lb.process.send_signal(signal.SIGTERM)
            wait_for(lambda: lb.get("/readyz")[0] == 503)
            served.sendall(OK)  # in time
            answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert lb.process.wait(PATIENCE) == 0


def test_who_asked_is_told_that_it_could_not_be_executed(tmp_path: Path, masters: list[Master], copy: Path) -> None:
    site = Site(masters)
    edit(copy, "control/upgrade.py", r"os\.execve\(_python\(\)", 'os.execve("/nonexistent/python"')
    with (
        lbproxy(tmp_path, site.text(), copy) as lb,
        socket.create_connection(("127.0.0.1", site.tcp), PATIENCE) as relay,
    ):
        before = pids(lb)
        for _ in range(2):
            relay.sendall(GET)
            assert relay.recv(100) == OK
            failed = say(tmp_path, "upgrade", seconds=PATIENCE)
            assert failed.returncode == 1
            assert "could not be executed: [Errno 2]" in failed.stderr
        assert "could not be executed" in lb.status()["upgrade_error"]
        assert pids(lb) == before
        relay.sendall(GET)
        assert relay.recv(100) == OK


@pytest.mark.parametrize("drain", [0, 20])
def test_who_asked_is_told_that_it_is_shutting_down(
    tmp_path: Path, masters: list[Master], copy: Path, drain: int
) -> None:
    site = Site(masters)
    edit(copy, "control/app.py", r"^ANSWER_TIME = .*", "ANSWER_TIME = 3.0")
    text = site.text(more=f"shutdown: {{drain: {drain}s, spread: 0s}}\n")
    with lbproxy(tmp_path, text, copy) as lb, socket.create_connection(("127.0.0.1", site.tcp), PATIENCE) as relay:
        relay.sendall(GET)
        assert relay.recv(100) == OK
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(say, tmp_path, "upgrade", seconds=PATIENCE)
            lb.wait_event("upgrade")
            lb.process.send_signal(signal.SIGTERM)
            failed = asked.result()
        assert failed.returncode == 1
        assert ("shutting down" if drain else "has ended") in failed.stderr


def test_workers_of_the_old_version_outlive_a_successor_that_does_not_start(
    tmp_path: Path, masters: list[Master], copy: Path
) -> None:
    """What the check did not see: the workers drain, and nobody is cut off before the time for that is over."""
    site = Site(masters)
    text = site.text(more="shutdown: {drain: 4s, spread: 0s}\n")
    with lbproxy(tmp_path, text, copy) as lb, socket.create_connection(("127.0.0.1", site.tcp), PATIENCE) as relay:
        relay.sendall(GET)
        assert relay.recv(100) == OK
        edit(copy, "control/start.py", r"^def run\(", "def run(*_):\n    return 1\n\n\ndef _run(")
        failed = say(tmp_path, "upgrade", seconds=PATIENCE)
        assert failed.returncode == 1
        assert "its successor did not start" in failed.stderr
        assert lb.process.wait(PATIENCE) == 1
        relay.sendall(GET)
        assert relay.recv(100) == OK
        with pytest.raises(ConnectionResetError):
            relay.recv(100)

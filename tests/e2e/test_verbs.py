"""What an operator asks of the running process, by the command line and the unix socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import PATIENCE, Lbproxy, free_port, lbproxy, wait_for
from tests.e2e.test_reload import OK, Load, Master, Site, pids, reload

GET = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def masters() -> Iterator[list[Master]]:
    with ExitStack() as stack:
        made = [Master() for _ in range(3)]
        for master in made:
            stack.callback(master.close)
        yield made


def say(directory: Path, *words: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lbproxy", words[0], "--socket", str(directory / "lb.sock"), *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def do(directory: Path, *words: str) -> str:
    done = say(directory, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def states(lb: Lbproxy) -> list[str]:
    return [one["state"] for one in lb.status()["pools"][0]["backends"]]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def test_a_drained_backend_gets_nothing_new_and_its_watches_go_on(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    load = Load()
    with lbproxy(tmp_path, site.text()) as lb, connect(site.tcp) as relay:
        relay.sendall(GET)
        assert relay.recv(100) == OK
        load.start(load.watch, site.http, 6)
        load.start(load.ask_anew, site.http, 1)
        wait_for(lambda: load.events > 60)
        first = masters[0].address
        assert do(tmp_path, "drain", first, "--pool", "p", "--wait", "--timeout", "20") == f"{first} of pool p: drain\n"
        backend = lb.status()["pools"][0]["backends"][0]
        assert (backend["state"], backend["set_at_runtime"], backend["active"]) == ("drain", True, 0)
        total, served = backend["total"], load.requests
        wait_for(lambda: load.requests > served + 50)
        assert lb.status()["pools"][0]["backends"][0]["total"] == total
        relay.sendall(GET)  # of the other pool
        assert relay.recv(100) == OK
        assert do(tmp_path, "ready", first, "--pool", "p") == f"{first} of pool p: ready\n"
        wait_for(lambda: lb.status()["pools"][0]["backends"][0]["total"] > total)
        assert not lb.status()["pools"][0]["backends"][0]["set_at_runtime"]
        load.stop()
        assert not load.errors
        assert "set to drain by uid" in lb.events("state")[0]["msg"]


def test_what_is_set_survives_reloads_and_deaths(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text()) as lb:
        do(tmp_path, "maint", masters[0].address, "--pool", "p")
        do(tmp_path, "weight", masters[1].address, "5", "--pool", "p")
        reload(lb, tmp_path, site.text(3, connect=0.7))
        for pid in pids(lb)[1:]:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(lb.events("worker_ready")) == 4)
        assert states(lb) == ["maint", "ready", "ready"]
        load = Load()
        load.start(load.ask_anew, site.http, 1)
        wait_for(lambda: load.requests >= 60)
        load.stop()
        assert not load.errors
        totals = [one["total"] for one in lb.status()["pools"][0]["backends"]]
        assert totals[0] == 0
        assert 4 < totals[1] / totals[2] < 6


def test_maint_ends_connections_and_kick_does_so_once(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters[:1])
    with lbproxy(tmp_path, site.text()) as lb, connect(site.tcp) as one, connect(site.tcp) as two:
        for sock in (one, two):
            sock.sendall(GET)
            assert sock.recv(100) == OK
        address = "{}:{}".format(*one.getsockname())
        listed = json.loads(do(tmp_path, "connections", "--pool", "q", "--json"))
        assert listed["count"] == 2
        assert {row["client"] for row in listed["connections"]} == {
            "{}:{}".format(*sock.getsockname()) for sock in (one, two)
        }
        assert {row["backend"] for row in listed["connections"]} == {masters[0].address}
        assert do(tmp_path, "kick", "--client", address) == "1 connection ended\n"
        with pytest.raises(ConnectionResetError):
            one.recv(100)
        two.sendall(GET)
        assert two.recv(100) == OK
        warned = say(tmp_path, "maint", "127.0.0.1", "--pool", "q")
        assert warned.returncode == 0
        assert "no backend left" in warned.stderr
        with pytest.raises(ConnectionResetError):
            two.recv(100)
        assert lb.status()["listeners"][1]["active"] == 0


def test_kicked_watches_go_on_elsewhere(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    load = Load()
    with lbproxy(tmp_path, site.text(workers=1)) as lb:
        load.start(load.watch, site.http, 6)
        wait_for(lambda: load.events > 60)
        assert do(tmp_path, "kick", masters[0].address) == "2 connections ended\n"
        wait_for(lambda: lb.status()["listeners"][0]["watches"]["resumed"] == 2)
        events = load.events
        wait_for(lambda: load.events > events + 60)
        load.stop()
        assert not load.errors


def test_reload_by_verb(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text()) as lb:
        assert do(tmp_path, "reload") == "nothing has changed\n"
        file = tmp_path / "lb.yaml"
        good = file.read_text()
        file.write_text(good.replace("mode: tcp", "mode: udp"))
        refused = say(tmp_path, "reload")
        assert refused.returncode == 1
        assert "udp" in refused.stderr
        file.write_text(good.replace("workers: 2", "workers: 1"))
        assert do(tmp_path, "reload") == "workers changed\n"
        wait_for(lambda: len(lb.status()["workers"]) == 1)


def test_status_is_a_table(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text()) as lb:
        wait_for(lambda: all(one["health"] == "up" for one in lb.status()["pools"][0]["backends"]))
        text = do(tmp_path, "status")
        for master in masters:
            assert f"{master.address}  ready  up" in text
        assert "2 of 2 workers ready" in text
        assert json.loads(do(tmp_path, "status", "--json"))["pools"][0]["name"] == "p"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["drain", "10.9.9.9"], "there is no backend 10.9.9.9; there are: 127.0.0.1:"),
        (["drain", "127.0.0.1"], "in several pools, say which with --pool: p, q"),
        (["drain", "127.0.0.1", "--pool", "p"], "127.0.0.1 is several backends, write the port: 127.0.0.1:"),
        (["drain", "127.0.0.1", "--pool", "x"], "there is no pool x; there are: p, q"),
        (["weight", "127.0.0.1", "0", "--pool", "p"], "write the port"),
        (["kick"], "say whose connections"),
        (["kick", "--pool", "x"], "there is no pool x; there are: p, q"),
        (["drain"], "say whose: a backend's, or with --pool"),
        (["maint", "--pool", "x"], "there is no pool x; there are: p, q"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, masters: list[Master], words: list[str], complaint: str) -> None:
    with lbproxy(tmp_path, Site(masters).text()) as lb:
        done = say(tmp_path, *words)
        assert done.returncode == 1
        assert complaint in done.stderr
        assert states(lb) == ["ready"] * 3


def test_it_is_for_its_user_only(tmp_path: Path, masters: list[Master]) -> None:
    with lbproxy(tmp_path, Site(masters).text()) as lb:
        assert stat.S_IMODE((tmp_path / "lb.sock").stat().st_mode) == 0o600
        status, _ = lb.get("/connections")
        assert status == 404, "not on TCP"
        with connect(lb.admin) as sock:
            sock.sendall(b"POST /reload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 405 ")
    assert not (tmp_path / "lb.sock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_others_are_told_that_they_may_not(masters: list[Master], tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("open")
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)
    with lbproxy(directory, Site(masters).text()):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                # Another user may not be able to read where this runs from: the imports are made before.
                "import argparse, os, sys; from lbproxy.admin.client import run; os.setuid(65534); "
                "sys.exit(run(argparse.Namespace(command='status', json=False), sys.argv[1:]))",
                str(directory / "lb.sock"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "permission denied" in done.stderr


def test_nobody_there(tmp_path: Path) -> None:
    done = say(tmp_path, "status")
    assert done.returncode == 1
    assert "no lbproxy listens at" in done.stderr


def test_a_second_one_does_not_take_the_socket(tmp_path: Path, masters: list[Master]) -> None:
    with lbproxy(tmp_path, Site(masters).text()):
        file = tmp_path / "second.yaml"
        file.write_text(
            f"listen: '127.0.0.1:{free_port()}'\nmode: tcp\nbackends: ['{masters[0].address}']\n"
            f"admin: {{bind: off, socket: '{tmp_path}/lb.sock'}}\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "lbproxy", "-c", str(file)], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        assert "admin.socket" in done.stderr
        assert do(tmp_path, "status")


def test_a_whole_pool(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text()) as lb, connect(site.tcp) as relay, connect(site.http) as other:
        for sock in (relay, other):
            sock.sendall(GET)
            assert sock.recv(100) == OK
        said = do(tmp_path, "weight", "4", "--pool", "p")
        assert said == "".join(f"{master.address} of pool p: weight 4\n" for master in masters)
        assert [one["weight"] for one in lb.status()["pools"][0]["backends"]] == [4] * 3
        drained = say(tmp_path, "drain", "--pool", "p", "--wait", "--timeout", "20")
        assert drained.returncode == 0
        assert drained.stdout == "".join(f"{master.address} of pool p: drain\n" for master in masters)
        assert "pool p has no backend left" in drained.stderr
        assert [one["state"] for pool in lb.status()["pools"] for one in pool["backends"]] == ["drain"] * 3 + [
            "ready"
        ] * 3
        other.sendall(GET)
        assert other.recv(1000).startswith(b"HTTP/1.1 503 ")
        answer = json.loads(do(tmp_path, "ready", "--pool", "p", "--json"))
        assert answer == {"pool": "p", "backends": [one.address for one in masters], "state": "ready", "ready": 3}
        assert states(lb) == ["ready"] * 3
        assert len(lb.events("state")) == 2, "one change each"
        assert do(tmp_path, "kick", "--pool", "q") == "1 connection ended\n"
        with pytest.raises(ConnectionResetError):
            relay.recv(100)
        assert say(tmp_path, "maint", "--pool", "q").returncode == 0
        with pytest.raises(ConnectionResetError), connect(site.tcp) as refused:
            refused.recv(1)


def test_every_verb_speaks_json(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters[:1])
    address = masters[0].address
    with lbproxy(tmp_path, site.text()) as lb, connect(site.tcp) as relay:
        relay.sendall(GET)
        assert relay.recv(100) == OK
        client = "{}:{}".format(*relay.getsockname())
        version = lb.status()["version"]

        def told(*words: str) -> Any:
            text = do(tmp_path, *words, "--json")
            assert text.endswith("\n")
            return json.loads(text)

        one = {"pool": "p", "backends": [address]}
        assert told("drain", address, "--pool", "p") == {**one, "state": "drain", "ready": 0}
        assert told("maint", address, "--pool", "p") == {**one, "state": "maint", "ready": 0}
        assert told("ready", address, "--pool", "p") == {**one, "state": "ready", "ready": 1}
        assert told("weight", address, "3", "--pool", "p") == {**one, "weight": 3}
        assert told("reload") == {"changes": [], "warnings": told("reload")["warnings"]}
        assert told("status")["pools"][0]["backends"][0]["weight"] == 3
        (row,) = told("connections")["connections"]
        assert (row["client"], row["backend"]) == (client, address)
        assert [one["client"] for one in told("who", row["source"])] == [client]
        assert told("upgrade") == {"from": version, "to": version, "pid": lb.process.pid}
        assert told("kick", "--client", client) == {"ended": 1}


def test_waiting_for_a_backend_that_a_reload_removes(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters)
    with lbproxy(tmp_path, site.text()) as lb, connect(site.http) as sock:
        sock.sendall(
            b"GET /api/v1/pods?watch=true&resourceVersion=1&sendInitialEvents=true HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert sock.recv(100)
        wait_for(lambda: sum(one["active"] for one in lb.status()["pools"][0]["backends"]) == 1)
        (busy,) = (one["address"] for one in lb.status()["pools"][0]["backends"] if one["active"])
        command = [sys.executable, "-m", "lbproxy", "drain", "--socket", str(tmp_path / "lb.sock"), busy]
        with subprocess.Popen(
            [*command, "--pool", "p", "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as it:
            assert it.stdout is not None
            assert it.stderr is not None
            assert it.stdout.readline()
            site.masters = [one for one in masters if one.address != busy]
            reload(lb, tmp_path, site.text())
            assert it.wait(PATIENCE) == 1
            assert it.stderr.read().decode().startswith(f"lbproxy drain: {busy} is in pool p no more")


def test_wait_gives_up(tmp_path: Path, masters: list[Master]) -> None:
    site = Site(masters[:1])
    with lbproxy(tmp_path, site.text()), connect(site.tcp) as sock:
        sock.sendall(GET)
        assert sock.recv(100) == OK
        began = time.monotonic()
        done = say(tmp_path, "drain", "127.0.0.1", "--pool", "q", "--wait", "--timeout", "1")
        assert done.returncode == 3
        assert "still has 1 after 1 s" in done.stderr
        assert time.monotonic() - began > 1
        sock.sendall(GET)
        assert sock.recv(100) == OK

"""The real thing, as short as it gets: one second of load, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, str(ROOT / "bench" / "run.py")]

needs_programs = pytest.mark.skipif(
    not all(shutil.which(name) for name in ("nginx", "wrk")), reason="needs nginx and wrk"
)


@needs_programs
def test_a_short_run_counts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    argv = ["--only", "http-keepalive", "--contenders", "direct,nginx", "--rounds", "1", "--duration", "1"]
    done = subprocess.run(
        [*RUN, *argv, "--json", str(file), "--results", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads(file.read_text())
    cost = {row["family"]: row["cpu_us"] for row in kept["summary"]}
    assert cost["direct"] is None
    assert 1 < cost["nginx"]["median"] < 1000
    assert all(run["verified"] and run["load"]["requests"] > 100 for run in kept["runs"])
    assert "http-keepalive" in done.stdout
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".html", ".json"]
    assert_nothing_left(tmp_path)


def shortest_run(tmp_path: Path, *options: str, through: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """The result, and what was said meanwhile."""
    argv = ["--only", "tcp-keepalive", "--contenders", "direct", "--rounds", "1", "--duration", "1", *options]
    file = tmp_path / "result.json"
    done = subprocess.run(
        [*through, *RUN, *argv, "--json", str(file), "--results", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text()), done.stdout


def of_the_machine() -> str:
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


@needs_programs
@pytest.mark.usefixtures("namespaces")
def test_a_run_has_a_network_of_its_own(tmp_path: Path) -> None:
    kept, said = shortest_run(tmp_path)
    machine = kept["machine"]
    assert (machine["network"], machine["congestion_control"]) == ("own namespace", "cubic")
    assert machine["tcp_rmem"] == "4096 131072 6291456"
    assert "; network: own namespace, cubic\n" in said
    assert "network: own namespace, cubic" in next((tmp_path / "kept").glob("*.html")).read_text()


@needs_programs
def test_a_run_that_is_told_to_stays_in_the_machines_network(tmp_path: Path) -> None:
    kept, said = shortest_run(tmp_path, "--machine-network")
    assert (kept["machine"]["network"], kept["machine"]["congestion_control"]) == ("machine's", of_the_machine())
    assert "none can be made" not in said


@needs_programs
def test_a_run_that_may_not_make_a_network_says_so_and_goes_on(tmp_path: Path) -> None:
    without = ("setpriv", "--bounding-set", "-sys_admin") if os.geteuid() == 0 else ()
    kept, said = shortest_run(tmp_path, through=without)
    assert (kept["machine"]["network"], kept["machine"]["congestion_control"]) == ("machine's", of_the_machine())
    assert "the machine's network is used, none can be made: Operation not permitted" in said.splitlines()[0]


@needs_programs
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    argv = [*RUN, "--only", "tcp-keepalive", "--contenders", "nginx", "--duration", "30", "--results", str(tmp_path)]
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=_not_in_the_background,
    ) as bench:
        # Should it never say that it is under way, then kill it: the read below ends, and so does the test.
        watchdog = threading.Timer(30, bench.kill)
        watchdog.start()
        assert bench.stdout is not None
        started = bench.stdout.readline()
        bench.send_signal(number)
        rest = bench.stdout.read()
        watchdog.cancel()
        assert bench.wait(10) == 130, started + rest
    assert_nothing_left(tmp_path)


def _not_in_the_background() -> None:
    """Shells have what they start in the background ignore SIGINT, these tests perhaps, and all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def assert_nothing_left(directory: Path) -> None:
    """No process has this directory, where the run kept its configurations, in its command line."""
    lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    mark = f"{directory}/lbproxy-bench-".encode()
    assert not [line for line in lines if mark in line]
    assert not list(directory.glob("lbproxy-bench-*"))


def test_wrong_usage_says_what_there_is() -> None:
    done = subprocess.run([*RUN, "--only", "tcp-keepalife"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "nothing is called 'tcp-keepalife'; there are" in done.stderr


def test_a_missing_program_is_named_with_what_installs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        RUN, capture_output=True, text=True, timeout=30, check=False, env=os.environ | {"PATH": str(tmp_path)}
    )
    assert done.returncode == 2
    assert "haproxy, nginx, wrk" in done.stderr
    assert "apt-get install" in done.stderr

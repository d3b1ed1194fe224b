"""The run's own network: what its connections use, that the way back is found, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench.network import BUFFERS, NoNamespaceError, buffers, congestion_control, own_network

ROOT = Path(__file__).resolve().parents[2]

needs_namespaces = pytest.mark.usefixtures("namespaces")


def where() -> str:
    return os.readlink("/proc/thread-self/ns/net")


@needs_namespaces
@pytest.mark.parametrize("algorithm", ["cubic", "reno"])  # one of them at least is not the machine's default
def test_connections_use_what_was_asked_for(algorithm: str) -> None:
    with own_network(algorithm):
        assert congestion_control() == algorithm


@needs_namespaces
def test_so_do_those_from_other_addresses_of_the_loopback() -> None:
    """The trials' clients have several, because one has not ports enough."""
    with own_network("reno"), socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, 5, ("127.0.1.8", 0)) as client, listener.accept()[0] as server:
            used = [end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) for end in (client, server)]
    assert [name.rstrip(b"\0") for name in used] == [b"reno", b"reno"]


@needs_namespaces
def test_buffers_have_the_default_sizes_and_the_machines_are_as_before() -> None:
    before = buffers()
    with own_network():
        assert buffers() == BUFFERS
    assert buffers() == before


@needs_namespaces
def test_there_is_the_loopback_and_nothing_else_and_ports_are_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, own_network():
        with socket.create_server(taken.getsockname()):
            pass
        with pytest.raises(OSError, match="unreachable"):
            socket.create_connection(("192.0.2.1", 80), 5)


@needs_namespaces
def test_the_way_back_is_found() -> None:
    home = where()
    seen = ""
    with suppress(ZeroDivisionError), own_network():
        seen = where()
        raise ZeroDivisionError
    assert seen not in ("", home)
    assert where() == home


@needs_namespaces
def test_what_cannot_be_set_up_is_said_and_left() -> None:
    home = where()
    with pytest.raises(NoNamespaceError, match="congestion"), own_network("nonesuch"):
        pass
    assert where() == home


def test_without_ip_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    home = where()
    with pytest.raises(NoNamespaceError, match="iproute2"), own_network():
        pass
    assert where() == home


@needs_namespaces
def test_nothing_keeps_it_when_its_process_is_killed() -> None:
    """What has no process, no name and no open file is gone; a name would be a mount of the namespace."""
    text = (
        "import os, signal\nfrom bench.network import own_network\n"
        "with own_network():\n    print(os.readlink('/proc/self/ns/net'), flush=True)\n    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        made = process.stdout.readline().strip()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert made.startswith("net:[")
    assert made != where()
    assert made not in Path("/proc/self/mountinfo").read_text()
    listed = subprocess.run(
        ["lsns", "--type", "net", "--noheadings", "--output", "NS"], capture_output=True, check=True
    )
    assert made.strip("net:[]").encode() not in listed.stdout.split()

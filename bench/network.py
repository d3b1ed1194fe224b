"""A network of the run's own, so that figures do not depend on what somebody has set for the machine's.

A new namespace begins with the kernel's defaults but for two things, which it copies from the machine: the sizes of
TCP's buffers, and the congestion control. The second decides more than the proxy does: bulk over the loopback is sent
when there is room, but by bbr when a timer says so, and then everybody's cost is the timer's. As its default a
namespace may only set what the machine's administrator allows. A route may name any algorithm, for both ends of the
connections that use it, so the routes of the loopback name the one that Linux has by default.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

CONGESTION_CONTROL = "cubic"  # the default of Linux since 2.6.19
CLONE_NEWNET = 0x40000000  # <linux/sched.h>
BUFFERS = {"tcp_rmem": "4096 131072 6291456", "tcp_wmem": "4096 16384 4194304"}  # the default, given a GB of memory
_LOOPBACK = ("127.0.0.0/8", "127.0.0.1")  # what `lo` has routes to as soon as it is up
_NAME_SIZE = 16  # TCP_CA_NAME_MAX, <net/tcp.h>
_SECONDS = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


class Network(Enum):
    OWN = "own namespace"
    MACHINE = "machine's"


class NoNamespaceError(Exception):
    """A namespace cannot be made here."""


@contextmanager
def own_network(congestion_control: str = CONGESTION_CONTROL) -> Iterator[None]:
    """This thread, and what it starts inside, in a network of which there is only the loopback.

    The namespace has no name: it is gone with the last process in it, however that ends. Raises NoNamespaceError.
    """
    ip = shutil.which("ip")
    if ip is None:
        raise NoNamespaceError("ip is not installed (iproute2)")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _unshare()
        try:
            _set_up(ip, congestion_control)
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET))
    finally:
        os.close(home)


def buffers() -> dict[str, str]:
    """The sizes of TCP's buffers here: least, at first, most."""
    return {name: " ".join(_sysctl(name).read_text().split()) for name in BUFFERS}


def congestion_control() -> str:
    """What a connection over the loopback uses here, asked of one; both ends' should they differ."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), _SECONDS) as client,
    ):
        listener.settimeout(_SECONDS)
        server, _address = listener.accept()
        with server:
            return ", ".join(dict.fromkeys((_algorithm(client), _algorithm(server))))


def in_words(machine: Mapping[str, str | int]) -> str:
    """The network that a result was made in; nothing for results that are older than the question."""
    if "network" not in machine:
        return ""
    return f"network: {machine['network']}, {machine['congestion_control']}"


def _algorithm(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_SIZE).rstrip(b"\0").decode()


def _unshare() -> None:
    try:
        _check(_libc.unshare(CLONE_NEWNET))
    except OSError as error:
        raise NoNamespaceError(f"{error.strerror}, it takes root") from error


def _set_up(ip: str, congestion_control: str) -> None:
    routes = (
        f"route replace local {prefix} dev lo table local proto kernel scope host src 127.0.0.1 "
        f"congctl {congestion_control}"
        for prefix in _LOOPBACK
    )
    commands = "\n".join(("link set lo up", *routes, ""))
    try:
        subprocess.run(
            [ip, "-batch", "-"], input=commands, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        raise NoNamespaceError(" ".join(error.stderr.split())) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNamespaceError(str(error)) from error
    for name, sizes in BUFFERS.items():
        with suppress(OSError):  # some containers have /proc/sys read-only; the result says what there is
            _sysctl(name).write_text(sizes)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys/net/ipv4", name)  # of the namespace of whoever opens it


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

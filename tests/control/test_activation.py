"""Sockets that the service manager hands over."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lbproxy.control.activation import ActivationError, GivenSockets
from lbproxy.control.configfile import loads
from lbproxy.control.listening import ListeningSockets
from lbproxy.control.start import open_sockets
from lbproxy.core.config import Config
from tests.e2e.process import free_port


class Manager:
    """systemd's part: descriptors with numbers one after the other, and variables."""

    FIRST = 400

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.environ = {"LISTEN_PID": str(os.getpid()), "PATH": "/bin"}

    def hand_over(self, sock: socket.socket, name: str = "lbproxy.socket") -> None:
        fd = self.FIRST + len(self.fds)
        os.dup2(sock.fileno(), fd)
        self.fds.append(fd)
        names = self.environ.get("LISTEN_FDNAMES")
        self.environ["LISTEN_FDNAMES"] = name if names is None else f"{names}:{name}"
        self.environ["LISTEN_FDS"] = str(len(self.fds))

    def given(self) -> GivenSockets:
        return GivenSockets(self.environ, self.FIRST)

    def open_sockets(self, config: Config) -> tuple[ListeningSockets, tuple[socket.socket | None, str]]:
        return open_sockets(config, self.given())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager()
    yield manager
    for fd in manager.fds:
        try:
            os.close(fd)
        except OSError:  # closed by whoever took it
            continue


def listening(stack: ExitStack, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return stack.enter_context(socket.create_server((host, port), family=family))


def config(*binds: str, admin: str = "off", path: str = "off") -> Config:
    return loads(
        f"listeners: [{{name: api, bind: {list(binds)!r}, mode: tcp, pool: p}}]\n"
        f"pools: {{p: {{backends: ['10.0.0.1:6443']}}}}\nadmin: {{bind: {admin!r}, socket: {path}}}\n"
    ).config


def test_nothing_is_handed_over_to_somebody_else(manager: Manager, stack: ExitStack) -> None:
    manager.hand_over(listening(stack))
    manager.environ["LISTEN_PID"] = "1"
    given = manager.given()
    assert manager.environ == {"PATH": "/bin"}, "nor to children"
    given.check_all_needed([])
    assert given.names == {}
    GivenSockets({}).check_all_needed([])


def test_what_is_handed_over_is_not_opened(manager: Manager, stack: ExitStack) -> None:
    theirs = listening(stack)
    port = theirs.getsockname()[1]
    admin = listening(stack)
    manager.hand_over(theirs)
    manager.hand_over(admin, "lbproxy-admin.socket")
    ours = f"127.0.0.1:{free_port()}"
    one = config(ours, f"127.0.0.1:{port}", admin="{}:{}".format(*admin.getsockname()))
    sockets, _ = manager.open_sockets(one)
    assert manager.environ == {"PATH": "/bin"}
    opened, taken = sockets.of(one.listeners[0])
    assert (opened.fileno() < 400, taken.fileno()) == (True, 400)
    assert (taken.getblocking(), taken.get_inheritable()) == (False, False)
    assert sockets.admin is not None
    assert sockets.admin.fileno() == 401
    assert sockets.handed_over == {
        f"127.0.0.1:{port}": "lbproxy.socket",
        "{}:{}".format(*admin.getsockname()): "lbproxy-admin.socket",
    }
    with socket.create_connection(theirs.getsockname(), 5):
        taken.accept()[0].close()
    sockets.close()
    with socket.create_connection(theirs.getsockname(), 5):  # waits for the next lbproxy
        pass


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_an_ipv6_address_may_be_written_in_any_way(manager: Manager, stack: ExitStack) -> None:
    theirs = listening(stack, "::1")
    manager.hand_over(theirs)
    one = config(f"[0:0::0:1]:{theirs.getsockname()[1]}")
    sockets, _ = manager.open_sockets(one)
    assert sockets.of(one.listeners[0])[0].fileno() == 400
    sockets.close()


def test_a_file_that_is_theirs_stays(manager: Manager, stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "api"
    theirs = stack.enter_context(socket.socket(socket.AF_UNIX))
    theirs.bind(str(path))
    theirs.listen()
    manager.hand_over(theirs)
    one = config(f"unix:{path}", f"unix:{tmp_path}/ours")
    sockets, _ = manager.open_sockets(one)
    assert sockets.of(one.listeners[0])[0].fileno() == 400
    sockets.close()
    assert path.exists()
    assert not (tmp_path / "ours").exists()


def test_the_runtime_socket_is_not_for_everybody(manager: Manager, stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "verbs"
    theirs = stack.enter_context(socket.socket(socket.AF_UNIX))
    theirs.bind(str(path))
    theirs.listen()
    path.chmod(0o666)
    manager.hand_over(theirs)
    before = dict(manager.environ)
    one = config(f"127.0.0.1:{free_port()}", path=str(path))
    with pytest.raises(ActivationError, match=r"everybody may connect to .*verbs \(lbproxy.socket\).*SocketMode=0600"):
        manager.open_sockets(one)
    os.dup2(theirs.fileno(), manager.fds[0])
    manager.environ = before
    path.chmod(0o660)  # for a group that somebody has chosen
    sockets, (sock, where) = manager.open_sockets(one)
    assert sock is not None
    assert (sock.fileno(), where) == (400, str(path))
    assert sockets.handed_over == {f"unix:{path}": "lbproxy.socket"}
    sockets.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    sock.close()


def test_what_nobody_needs_is_named_beside_what_is_needed(manager: Manager, stack: ExitStack) -> None:
    theirs = listening(stack)
    manager.hand_over(theirs, "old.socket")
    one = config(f"127.0.0.1:{free_port()}", path="/run/x.sock")
    with pytest.raises(
        ActivationError,
        match=rf"handed over 127\.0\.0\.1:{theirs.getsockname()[1]} \(old\.socket\), but lb\.yaml listens on "
        rf"{one.listeners[0].bind[0].text}, unix:/run/x\.sock: write the same address in both",
    ):
        manager.open_sockets(one)


def test_what_does_not_listen_is_refused(manager: Manager, stack: ExitStack) -> None:
    manager.hand_over(stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)), "udp")
    with pytest.raises(ActivationError, match=r"descriptor 400 \(udp\) .*ListenStream= and Accept=no"):
        manager.given()


def test_what_is_no_socket_is_refused(manager: Manager, stack: ExitStack, tmp_path: Path) -> None:
    manager.hand_over(listening(stack))
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), 400)
    with pytest.raises(ActivationError, match=r"descriptor 400 .* is no socket"):
        manager.given()


def test_the_same_one_twice_is_refused(manager: Manager, stack: ExitStack) -> None:
    theirs = listening(stack)
    manager.hand_over(theirs, "one")
    manager.hand_over(theirs, "two")
    with pytest.raises(ActivationError, match=r"\(two\) was handed over twice"):
        manager.given()

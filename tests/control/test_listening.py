"""Listening sockets: options read back from the kernel, and complaints that say what to do."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lbproxy.control.configfile import loads
from lbproxy.control.listening import ListenError, ListeningSockets, close_listening, open_address
from lbproxy.core.config import Address, Admin, Backend, Config, Listener, Pool


def listener(*binds: str, freebind: bool = True) -> Listener:
    text = (
        f"listeners: [{{name: api, bind: {list(binds)!r}, mode: tcp, pool: p, freebind: {str(freebind).lower()}}}]\n"
        "pools: {p: {backends: ['10.0.0.1:6443']}}\n"
    )
    return loads(text).config.listeners[0]


def open_listener(one: Listener) -> list[socket.socket]:
    pools = (Pool("p", (Backend(Address("10.0.0.1:6443", "10.0.0.1", 6443)),)),)
    return ListeningSockets(Config((one,), pools, admin=Admin(None))).of(one)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number: int = sock.getsockname()[1]
    return number


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def test_what_is_opened_listens_does_not_block_and_is_closed(port: int) -> None:
    sockets = open_listener(listener(f"127.0.0.1:{port}", f"127.0.0.2:{port}"))
    assert [sock.getsockname() for sock in sockets] == [("127.0.0.1", port), ("127.0.0.2", port)]
    for sock in sockets:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not sock.getblocking()
        assert not sock.get_inheritable(), "only what a worker needs is passed to it, by name"
    close_listening(sockets)
    assert sockets == []
    socket.create_server(("127.0.0.1", port)).close()


def test_an_address_that_comes_later(port: int) -> None:
    address = f"192.0.2.77:{port}"
    sockets = open_listener(listener(address))
    assert sockets[0].getsockname() == ("192.0.2.77", port)
    close_listening(sockets)
    with pytest.raises(ListenError, match=rf"cannot listen on {address}: .*set freebind: true"):
        open_listener(listener(address, freebind=False))


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_ipv6_takes_no_ipv4_so_that_both_may_be_bound(port: int) -> None:
    sockets = open_listener(listener(f"[::]:{port}", f"0.0.0.0:{port}", f"[2001:db8::77]:{port + 1}"))
    assert sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    assert sockets[2].getsockname()[0] == "2001:db8::77"
    close_listening(sockets)


def test_a_busy_address_is_named_and_nothing_else_stays_open(port: int, busy: int) -> None:
    with pytest.raises(
        ListenError, match=rf"cannot listen on 127\.0\.0\.1:{busy}: Address already in use \(.*ss -ltnp"
    ):
        open_listener(listener(f"127.0.0.1:{port}", f"127.0.0.1:{busy}"))
    socket.create_server(("127.0.0.1", port)).close()


def test_a_unix_socket_is_for_everybody_who_may_enter_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    sockets = open_listener(listener(f"unix:{path}"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_listening(sockets)
    assert not path.exists()


def test_the_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lb.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    sockets = open_listener(listener(f"unix:{path}"))
    with pytest.raises(ListenError, match="Address already in use"):
        open_listener(listener(f"unix:{path}"))  # of a living one it is not
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_listening(sockets)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match=r"Address already in use \(.*a file that is no socket"):
        open_listener(listener(f"unix:{path}"))
    assert path.read_text() == "data"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    (bound,) = listener(f"unix:{tmp_path}/none/lb.sock").bind
    with pytest.raises(ListenError, match="its directory does not exist") as caught:
        open_address(bound, 16)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOENT

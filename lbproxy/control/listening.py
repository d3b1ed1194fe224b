"""The listening sockets. The control plane opens them and keeps them, so a worker may die and no client is refused."""

from __future__ import annotations

import errno
import os
import socket
import stat

from lbproxy.core.config import Address, Listener

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
_IP_FREEBIND = 15  # linux/in.h; the socket module has no name for it before Python 3.12

# What nginx gives the socket file of a listener: who may reach it is its directory's business.
UNIX_MODE = 0o666

_ADVICE = {
    errno.EADDRINUSE: "another process has it; `ss -ltnp` shows which",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "no interface has it; set freebind: true for an address that keepalived brings later",
}

_UNIX_ADVICE = {
    errno.EADDRINUSE: "another process listens on it, or it is a file that is no socket",
    errno.EACCES: "this user may not create files in its directory",
    errno.ENOENT: "its directory does not exist",
}


class ListenError(Exception):
    """An address that could not be listened on; the text says which, why, and what to do."""


def open_listener(listener: Listener) -> list[socket.socket]:
    """A listening socket for each of the listener's addresses. Raises ListenError, having closed the others."""
    sockets: list[socket.socket] = []
    try:
        for address in listener.bind:
            sockets.append(open_address(address, listener.backlog, freebind=listener.freebind))
    except ListenError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def open_address(address: Address, backlog: int, *, freebind: bool = False) -> socket.socket:
    """One listening socket. An IPv6 address takes no IPv4 connections, as nginx's `ipv6only=on`. Raises ListenError."""
    family = _FAMILIES[address.family]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_UNIX:
            _remove_stale(address.host)
            sock.bind(address.host)
            os.chmod(address.host, UNIX_MODE)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if freebind:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            sock.bind((address.host, address.port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        words = error.strerror or str(error)
        advice = (_UNIX_ADVICE if family == socket.AF_UNIX else _ADVICE).get(error.errno or 0)
        raise ListenError(f"cannot listen on {address}: {words}" + (f" ({advice})" if advice else "")) from error
    sock.setblocking(False)
    return sock


def close_listening(sockets: list[socket.socket]) -> None:
    """Close listening sockets, and remove the files of those that have one."""
    for sock in sockets:
        name = sock.getsockname() if sock.family == socket.AF_UNIX else ""
        sock.close()
        if name:
            try:
                os.unlink(name)
            except FileNotFoundError:
                continue
    sockets.clear()


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on: what a killed process leaves behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)

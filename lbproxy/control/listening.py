"""The listening sockets. The control plane opens them and keeps them, so a worker may die and no client is refused."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence

from lbproxy.core.config import Address, Config, Listener

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
_IP_FREEBIND = 15  # linux/in.h; the socket module has no name for it before Python 3.12

# What nginx gives the socket file of a listener: who may reach it is its directory's business.
UNIX_MODE = 0o666

ADMIN_BACKLOG = 64

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


def open_address(address: Address, backlog: int, *, freebind: bool = False) -> socket.socket:
    """One listening socket. An IPv6 address takes no IPv4 connections, as nginx's `ipv6only=on`. Raises ListenError."""
    family = _FAMILIES[address.family]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_UNIX:
            remove_stale(address.host)
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


class ListeningSockets:
    """All listening sockets of the process, by address. Raises ListenError, and then none is left open."""

    def __init__(
        self,
        config: Config,
        inherited: Mapping[str, socket.socket] | None = None,
        handed_over: Mapping[str, str] | None = None,
    ) -> None:
        """`inherited` sockets listen already. Those `handed_over` by a service manager, with names, stay its own."""
        self._open = dict(inherited or {})
        self._opened: list[str] = []  # by the last prepare()
        self.handed_over = dict(handed_over or {})
        self.prepare(config)
        self.commit(config)

    def prepare(self, config: Config) -> None:
        """Open what a configuration needs and is not open yet. Raises ListenError, and then nothing has changed."""
        self._opened = []
        try:
            for listener in config.listeners:
                for address in listener.bind:
                    self._prepare(address, listener.backlog, freebind=listener.freebind)
            if config.admin.bind is not None:
                self._prepare(config.admin.bind, ADMIN_BACKLOG)
        except ListenError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Close what the last prepare() has opened."""
        self._close(self._opened)

    def commit(self, config: Config) -> None:
        """A configuration has been prepared, and is in force."""
        self._config = config
        self._opened = []
        for listener in config.listeners:
            for sock in self.of(listener):
                sock.listen(listener.backlog)

    def close_unused(self) -> None:
        """Close what the configuration in force does not need."""
        config = self._config
        wanted = {address.text for listener in config.listeners for address in listener.bind}
        if config.admin.bind is not None:
            wanted.add(config.admin.bind.text)
        self._close([text for text in self._open if text not in wanted])

    def of(self, listener: Listener) -> list[socket.socket]:
        """A listener's, in the order of its addresses; none once they are closed."""
        return [self._open[address.text] for address in listener.bind if address.text in self._open]

    @property
    def admin(self) -> socket.socket | None:
        """The admin endpoint's."""
        bind = self._config.admin.bind
        return None if bind is None else self._open.get(bind.text)

    def all(self) -> dict[str, socket.socket]:
        """By address."""
        return dict(self._open)

    def close_listeners(self) -> None:
        """Take no more connections; the admin endpoint goes on."""
        admin = self._config.admin.bind
        kept = None if admin is None else admin.text
        self._close([text for text in self._open if text != kept])

    def close(self) -> None:
        self._close(list(self._open))

    def _close(self, texts: Sequence[str]) -> None:
        for text in texts:
            if self.handed_over.pop(text, None) is not None:
                self._open.pop(text).close()  # and its file stays
        close_listening([self._open.pop(text) for text in texts if text in self._open])

    def _prepare(self, address: Address, backlog: int, *, freebind: bool = False) -> None:
        if address.text not in self._open:
            self._open[address.text] = open_address(address, backlog, freebind=freebind)
            self._opened.append(address.text)


def addresses(config: Config) -> list[Address]:
    """All that a configuration listens on, the runtime socket excepted."""
    found = [address for listener in config.listeners for address in listener.bind]
    return found if config.admin.bind is None else [*found, config.admin.bind]


def remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on: what a killed process leaves behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)

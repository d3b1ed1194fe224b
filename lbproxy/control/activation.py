"""Listening sockets that the service manager has opened: sd_listen_fds(3), systemd's socket activation.

They are there before lbproxy is, and stay while it is started anew: a client waits in their queue instead of being
refused, and a port below 1024 needs no capability here. A socket that is handed over and belongs to no address of
lb.yaml is an error: clients would wait at it for ever.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass

from lbproxy.core.config import Address

FIRST_FD = 3


class ActivationError(Exception):
    """Something that was handed over and cannot be used; the text says what to write instead."""


@dataclass(frozen=True, slots=True)
class Given:
    """One socket. `name` is what FileDescriptorName= says, by default the unit's name."""

    sock: socket.socket
    name: str
    text: str  # its address, as lb.yaml would have it


class GivenSockets:
    """What the service manager has handed over and nobody has taken yet."""

    def __init__(self, environ: MutableMapping[str, str] | None = None, first_fd: int = FIRST_FD) -> None:
        """Takes its variables out of the environment: they are not for children. Raises ActivationError."""
        environ = os.environ if environ is None else environ
        pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        environ.pop("LISTEN_PIDFDID", None)
        self._left: dict[str, Given] = {}
        self.names: dict[str, str] = {}  # of those that were taken, by address as lb.yaml has it
        if pid != str(os.getpid()) or not count.isdecimal():
            return
        try:
            for number in range(int(count)):
                self._add(_given(first_fd + number, names[number] if number < len(names) else ""))
        except ActivationError:
            self.close_left()
            raise

    def _add(self, given: Given) -> None:
        if given.text in self._left:
            given.sock.close()
            raise ActivationError(f"{_words(given)} was handed over twice; lbproxy needs it once")
        self._left[given.text] = given

    def close_left(self) -> None:
        """Close what nobody has taken."""
        for given in self._left.values():
            given.sock.close()
        self._left.clear()

    def take(self, address: Address) -> socket.socket | None:
        """The socket that listens on an address, if there is one."""
        given = self._left.pop(_text(address.family, address.host, address.port), None)
        if given is None:
            return None
        self.names[address.text] = given.name
        given.sock.setblocking(False)
        return given.sock

    def take_path(self, path: str) -> socket.socket | None:
        """As take(), of the runtime socket: whoever may connect there may do everything. Raises ActivationError."""
        sock = self.take(Address(f"unix:{path}", path, 0, "unix"))
        if sock is not None and stat.S_IMODE(os.stat(path).st_mode) & stat.S_IRWXO:
            sock.close()
            raise ActivationError(
                f"everybody may connect to {path} ({self.names[f'unix:{path}']}), which is for operators: "
                "write SocketMode=0600 in its socket unit"
            )
        return sock

    def check_all_needed(self, addresses: Collection[str]) -> None:
        """Raises ActivationError if one is left that is not among these, which are all of lb.yaml's."""
        left = ", ".join(_words(given) for text, given in self._left.items() if text not in addresses)
        if left:
            self.close_left()
            raise ActivationError(
                f"the service manager has handed over {left}, but lb.yaml listens on {', '.join(addresses)}: write "
                "the same address in both, because clients would wait there for ever"
            )


def _given(fd: int, name: str) -> Given:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ActivationError(f"descriptor {fd} ({name}) was handed over, but is no socket: {error.strerror}") from None
    listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.family not in _FAMILIES:
        sock.close()
        raise ActivationError(
            f"descriptor {fd} ({name}) was handed over, but does not listen for TCP or unix connections: use "
            "ListenStream= and Accept=no"
        )
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Given(sock, name, _text("unix", os.fsdecode(where), 0))
    return Given(sock, name, _text(_FAMILIES[sock.family], where[0], where[1]))


_FAMILIES = {socket.AF_INET: "inet", socket.AF_INET6: "inet6", socket.AF_UNIX: "unix"}


def _text(family: str, host: str, port: int) -> str:
    if family == "unix":
        return f"unix:{host}"
    return f"[{host}]:{port}" if family == "inet6" else f"{host}:{port}"


def _words(given: Given) -> str:
    return f"{given.text} ({given.name})" if given.name else given.text

"""Socket options and the few socket operations that the standard library leaves to us."""

from __future__ import annotations

import errno
import os
import socket
import struct
from socket import SocketType  # the C class that socket.socket is made of, at half of the cost
from typing import Any

from lbproxy.core.config import Address, TcpSide

# As plain numbers: an Enum member costs a call wherever C wants an int.
AF_INET, AF_INET6, AF_UNIX = int(socket.AF_INET), int(socket.AF_INET6), int(socket.AF_UNIX)
SOCK_STREAM = int(socket.SOCK_STREAM)
NEW = SOCK_STREAM | int(socket.SOCK_NONBLOCK) | int(socket.SOCK_CLOEXEC)
MSG_MORE = int(socket.MSG_MORE)
IPPROTO_TCP, TCP_NODELAY = int(socket.IPPROTO_TCP), int(socket.TCP_NODELAY)
# Bytes per recv() of a connection that has not had more at once yet: what malloc has at hand, where 64 KiB take it half
# a microsecond to make and to take most of back.
FEW = 960
_RST_ON_CLOSE = struct.pack("ii", 1, 0)

# What a non-blocking connect() answers when it has started well. EAGAIN is not among them: a unix socket says so when
# the queue of the listener is full, and then nothing has been started (connect(2)).
CONNECT_STARTED = (0, errno.EINPROGRESS)


def set_options(sock: SocketType, side: TcpSide) -> None:
    """The schema's `tcp` options. On a listening socket once is enough: Linux copies them to what it accepts."""
    if sock.family != AF_UNIX:
        if side.nodelay:
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        set_liveness(sock, side)


def set_liveness(sock: SocketType, side: TcpSide) -> None:
    """How soon a peer that is silent, or does not acknowledge, is given up."""
    setsockopt = sock.setsockopt
    setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    setsockopt(IPPROTO_TCP, socket.TCP_KEEPIDLE, int(side.keepalive.idle))
    setsockopt(IPPROTO_TCP, socket.TCP_KEEPINTVL, int(side.keepalive.interval))
    setsockopt(IPPROTO_TCP, socket.TCP_KEEPCNT, side.keepalive.count)
    if side.user_timeout:
        setsockopt(IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(side.user_timeout * 1000))


def local_address(sock: SocketType) -> str:
    """Where the peer sees it come from, as IP:PORT; "" for a unix socket, and when it is closed."""
    try:
        name = sock.getsockname()
    except OSError:
        return ""
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""


def accept(listening: socket.socket) -> tuple[SocketType, Any]:
    """A non-blocking connection and its peer's address. Raises as socket.accept does.

    What socket.accept adds to the system call costs more than the call: the family and the type as Enums, and an
    object of a class in Python.
    """
    fd, address = listening._accept()  # type: ignore[attr-defined]
    # (host, port), (host, port, flow, scope), or a path: the peer's address tells the family
    family = AF_UNIX if not isinstance(address, tuple) else AF_INET if len(address) == 2 else AF_INET6
    sock = SocketType(family, SOCK_STREAM, 0, fd)
    sock.setblocking(False)
    return sock, address


def open_connection(address: Address, side: TcpSide) -> SocketType:
    """A socket on which a non-blocking connect is under way, without `set_liveness`. Raises OSError if it failed."""
    family = _FAMILIES[address.family]
    sock = SocketType(family, NEW, 0)
    try:
        if family == AF_UNIX:
            error = sock.connect_ex(address.host)
        else:
            if side.nodelay:
                sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            error = sock.connect_ex((address.host, address.port))
        if error not in CONNECT_STARTED:
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


def reset_on_close(sock: SocketType) -> None:
    """Make close() send RST instead of FIN."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    except OSError:  # a unix socket, or one that is gone already
        return


def pending_error(sock: SocketType) -> int:
    """errno of what happened to a socket, 0 for nothing; reading it clears it."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


_FAMILIES = {"inet": AF_INET, "inet6": AF_INET6, "unix": AF_UNIX}

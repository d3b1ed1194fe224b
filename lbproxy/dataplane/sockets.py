"""Socket options and the few socket operations that the standard library leaves to us."""

from __future__ import annotations

import errno
import os
import socket
import struct

from lbproxy.core.config import Address, TcpSide

_RST_ON_CLOSE = struct.pack("ii", 1, 0)

# What a non-blocking connect() answers when it has started well. EAGAIN is not among them: a unix socket says so when
# the queue of the listener is full, and then nothing has been started (connect(2)).
CONNECT_STARTED = (0, errno.EINPROGRESS)


def set_options(sock: socket.socket, side: TcpSide) -> None:
    """The schema's `tcp` options. On a listening socket once is enough: Linux copies them to what it accepts."""
    if sock.family == socket.AF_UNIX:
        return
    setsockopt = sock.setsockopt
    tcp = socket.IPPROTO_TCP
    if side.nodelay:
        setsockopt(tcp, socket.TCP_NODELAY, 1)
    setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    setsockopt(tcp, socket.TCP_KEEPIDLE, int(side.keepalive.idle))
    setsockopt(tcp, socket.TCP_KEEPINTVL, int(side.keepalive.interval))
    setsockopt(tcp, socket.TCP_KEEPCNT, side.keepalive.count)
    if side.user_timeout:
        setsockopt(tcp, socket.TCP_USER_TIMEOUT, int(side.user_timeout * 1000))


def open_connection(address: Address, side: TcpSide) -> socket.socket:
    """A socket on which a non-blocking connect is under way. Raises OSError when it failed at once."""
    family = _FAMILIES[address.family]
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        set_options(sock, side)
        target = address.host if family == socket.AF_UNIX else (address.host, address.port)
        error = sock.connect_ex(target)
        if error not in CONNECT_STARTED:
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


def reset_on_close(sock: socket.socket) -> None:
    """Make close() send RST instead of FIN."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    except OSError:  # a unix socket, or one that is gone already
        return


def pending_error(sock: socket.socket) -> int:
    """errno of what happened to a socket, 0 for nothing; reading it clears it."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}

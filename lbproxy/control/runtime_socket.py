"""The unix socket for `lbproxy drain`, `status` and the like: for whoever runs lbproxy, and nobody else."""

from __future__ import annotations

import contextlib
import os
import socket

from lbproxy.control.activation import GivenSockets
from lbproxy.control.listening import ListenError, remove_stale
from lbproxy.core.config import DEFAULT_SOCKET

BACKLOG = 16


def open_runtime_socket(path: str | None, given: GivenSockets | None = None) -> tuple[socket.socket | None, str]:
    """The listening socket, and a text: where it is; or why there is none, which matters only for the default path.

    Raises ListenError if a path that the operator has chosen cannot be had, and ActivationError.
    """
    if path is None:
        return None, ""
    for one in paths_of(path):
        if given is not None and (sock := given.take_path(one)) is not None:
            return sock, one
    if path != DEFAULT_SOCKET:
        try:
            return _open(path), path
        except OSError as error:
            raise ListenError(f"cannot listen on unix:{path} (admin.socket): {error.strerror or error}") from error
    reasons = []
    for one in default_paths():
        try:
            return _open(one), one
        except OSError as error:
            reasons.append(f"{one}: {error.strerror or error}")
    return None, "; ".join(reasons)


def inherited_runtime_socket(fd: int | None, path: str) -> tuple[socket.socket | None, str]:
    """A predecessor's, as open_runtime_socket gave it."""
    return None if fd is None else socket.socket(fileno=fd), path


def close_runtime_socket(sock: socket.socket | None, path: str, *, ours: bool = True) -> None:
    """Close it, and remove its file if that is ours."""
    if sock is not None:
        sock.close()
    if sock is not None and ours:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def paths_of(path: str | None) -> list[str]:
    """Where it may be, if lb.yaml says this."""
    return [] if path is None else default_paths() if path == DEFAULT_SOCKET else [path]


def default_paths() -> list[str]:
    """Where it is looked for, and made, if lb.yaml does not say."""
    home = os.environ.get("XDG_RUNTIME_DIR")
    return [DEFAULT_SOCKET, *([f"{home}/lbproxy/lbproxy.sock"] if home else [])]


def _open(path: str) -> socket.socket:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # never for others, not even for a moment
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock

"""From a configuration to a running process: sockets, the log's thread, trio."""

from __future__ import annotations

import contextlib
import resource
import socket
import sys

import trio

from lbproxy.admin.log import Output
from lbproxy.control.app import ControlPlane
from lbproxy.control.config_problem import Loaded
from lbproxy.control.listening import ListenError, ListeningSockets
from lbproxy.control.runtime_socket import close_runtime_socket, inherited_runtime_socket, open_runtime_socket
from lbproxy.control.upgrade import Estate


def run(loaded: Loaded, estate: Estate | None = None) -> int:
    """Run the balancer until a signal ends it. The exit status: 0 stopped, 1 could not start.

    `estate`: what a version before this one has left to this process.
    """
    _raise_fd_limit()
    estate = estate or {}
    try:
        inherited = {address: socket.socket(fileno=fd) for address, fd in estate.get("listening", {}).items()}
        sockets = ListeningSockets(loaded.config, inherited)
        try:
            if estate:
                runtime_socket = inherited_runtime_socket(*estate["runtime_socket"])
            else:
                runtime_socket = open_runtime_socket(loaded.config.admin.socket)
        except ListenError:
            sockets.close()
            raise
    except ListenError as error:
        print(f"lbproxy: {error}", file=sys.stderr)
        return 1
    output = Output()
    output.start()
    try:
        return trio.run(ControlPlane(loaded, sockets, runtime_socket, output, estate).run)
    finally:
        sockets.close()
        close_runtime_socket(*runtime_socket)
        output.close()


def _raise_fd_limit() -> None:
    """As many descriptors as the administrator allows; workers inherit it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a limit above fs.nr_open may be had, but not set
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

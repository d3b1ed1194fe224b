"""From a configuration to a running process: sockets, the log's thread, trio."""

from __future__ import annotations

import socket
import sys

import trio

from lbproxy.admin.log import Output
from lbproxy.control.activation import ActivationError, GivenSockets
from lbproxy.control.app import ControlPlane
from lbproxy.control.config_problem import Loaded
from lbproxy.control.fd_limit import raise_fd_limit
from lbproxy.control.listening import ListenError, ListeningSockets, addresses
from lbproxy.control.runtime_socket import close_runtime_socket, inherited_runtime_socket, open_runtime_socket, paths_of
from lbproxy.control.upgrade import Estate
from lbproxy.core.config import Config


def run(loaded: Loaded, estate: Estate | None = None) -> int:
    """Run the balancer until a signal ends it. The exit status: 0 stopped, 1 could not start.

    `estate`: what a version before this one has left to this process.
    """
    raise_fd_limit()
    estate = estate or {}
    try:
        if estate:
            inherited = {address: socket.socket(fileno=fd) for address, fd in estate["listening"].items()}
            sockets = ListeningSockets(loaded.config, inherited, estate.get("handed_over"))
            runtime_socket = inherited_runtime_socket(*estate["runtime_socket"])
        else:
            sockets, runtime_socket = open_sockets(loaded.config, GivenSockets())
    except (ListenError, ActivationError) as error:
        print(f"lbproxy: {error}", file=sys.stderr)
        return 1
    ours = f"unix:{runtime_socket[1]}" not in sockets.handed_over
    output = Output()
    output.start()
    if estate.get("log_is_cut"):
        output.write(b"\n")
    try:
        return trio.run(ControlPlane(loaded, sockets, runtime_socket, output, estate).run)
    finally:
        sockets.close()
        close_runtime_socket(*runtime_socket, ours=ours)
        output.close()


def open_sockets(config: Config, given: GivenSockets) -> tuple[ListeningSockets, tuple[socket.socket | None, str]]:
    """Listening sockets and the runtime socket: those that are given, and the others are opened.

    Raises ListenError and ActivationError.
    """
    inherited = {address.text: sock for address in addresses(config) if (sock := given.take(address)) is not None}
    sockets = ListeningSockets(config, inherited, given.names)
    try:
        paths = [f"unix:{path}" for path in paths_of(config.admin.socket)]
        given.check_all_needed([*(address.text for address in addresses(config)), *paths])
        runtime_socket = open_runtime_socket(config.admin.socket, given)
        sockets.handed_over = given.names
    except (ListenError, ActivationError):
        sockets.close()
        raise
    return sockets, runtime_socket

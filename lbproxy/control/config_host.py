"""What a configuration depends on of the host that it will run on. Only warnings look at it: a host can change."""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import socket
from dataclasses import dataclass

from lbproxy.core.config import Address

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_SOMAXCONN = "/proc/sys/net/core/somaxconn"


@dataclass(frozen=True, slots=True)
class Host:
    """A host as it is now. Derived from in tests."""

    max_fds: int  # RLIMIT_NOFILE's hard limit, which lbproxy raises itself to; 0 is not known
    somaxconn: int  # the longest accept queue; 0 is not known
    cores: int  # that this process may use

    def can_bind(self, address: Address) -> bool:
        """Whether the kernel lets an address be bound without IP_FREEBIND: an interface has it, or any may be bound."""
        try:
            with socket.socket(_FAMILIES[address.family], socket.SOCK_DGRAM) as sock:
                sock.bind((address.host, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
        return True

    def is_own(self, address: Address) -> bool:
        """Whether what is sent to an address stays on this host.

        Asked of the routes and not by bind: where keepalived runs, net.ipv4.ip_nonlocal_bind lets anything be bound.
        """
        if ipaddress.ip_address(address.host).is_loopback:
            return True
        try:
            with socket.socket(_FAMILIES[address.family], socket.SOCK_DGRAM) as sock:
                sock.connect((address.host, 9))  # of UDP: nothing is sent
                return str(sock.getsockname()[0]) == address.host
        except OSError:  # no route
            return False


def this_host() -> Host:
    """The host that this process runs on."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with open(_SOMAXCONN) as file:
            somaxconn = int(file.read())
    except (OSError, ValueError):
        somaxconn = 0
    return Host(0 if hard == resource.RLIM_INFINITY else hard, somaxconn, len(os.sched_getaffinity(0)))

"""Addresses in lb.yaml: IPv4:PORT, [IPv6]:PORT or unix:/path, and what to say about everything else.

Names are refused on purpose. A balancer that resolves its backends stops when DNS does, and the cluster's DNS runs
behind the very apiservers that it balances.
"""

from __future__ import annotations

import ipaddress
import re

from lbproxy.control.config_values import shortened, spoken
from lbproxy.core.config import Address

_PATH = re.compile(r"/[A-Za-z0-9_.:/@%+~,-]+")


def read_address(value: object) -> Address:
    """Where to listen or dial: IPv4:PORT, [IPv6]:PORT or unix:/path."""
    if not isinstance(value, str):
        if isinstance(value, int) and 1 <= value <= 65535 and value is not True:
            raise ValueError(f"{value}: {_no_address(value)}")
        raise ValueError(f"must be an address such as 10.0.1.10:6443, not {spoken(value)}")
    if value.startswith("unix:"):
        return _unix(value)
    if "://" in value:
        raise ValueError(
            f"{spoken(value)}: write only IP:PORT, such as 10.0.1.10:6443, without {value.split('://')[0]}://"
        )
    return _with_port(value)


def _unix(value: str) -> Address:
    path = value.removeprefix("unix:")
    if not _PATH.fullmatch(path):
        raise ValueError(
            f"{spoken(value)}: after unix: comes an absolute path of letters, digits and / . _ - @ % + ~ , :"
        )
    # sockaddr_un has room for 107 bytes and the final zero.
    if len(path) > 107:
        raise ValueError(f"{spoken(value)}: the path of a unix socket has at most 107 bytes")
    return Address(value, path, 0, "unix")


def _with_port(value: str) -> Address:
    if value.startswith("["):
        literal, bracket, rest = value[1:].partition("]")
        if not bracket:
            raise ValueError(f"{spoken(value)}: the ] after the IPv6 address is missing")
        port = rest.removeprefix(":") if rest.startswith(":") or not rest else ""
    else:
        literal, _, port = value.rpartition(":") if ":" in value else (value, "", "")
        if ":" in literal:
            raise ValueError(f"{spoken(value)}: write an IPv6 address in brackets: [{literal}]:{port or 'PORT'}")
    ip = _literal(literal, value, bracketed=value.startswith("["))
    if not port:
        raise ValueError(
            f"{spoken(value)}: the port is missing; write {value.rstrip(':')}:PORT, such as {value.rstrip(':')}:6443"
        )
    return Address(value, str(ip), _port(port, value), "inet" if ip.version == 4 else "inet6")


def _literal(literal: str, value: str, *, bracketed: bool) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if literal in ("", "*"):
        port = value.rpartition(":")[2] or "PORT"
        raise ValueError(f"{spoken(value)}: {_no_address(port)}")
    if "%" in literal:
        raise ValueError(f"{spoken(value)}: addresses with a zone (%) are not supported; use a global one")
    try:
        ip = ipaddress.ip_address(literal)
    except ValueError:
        raise ValueError(f"{spoken(value)}: {_no_literal(literal)}") from None
    if bracketed and ip.version == 4:
        raise ValueError(f"{spoken(value)}: only IPv6 addresses stand in brackets")
    return ip


def _no_address(port: object) -> str:
    return f"the IP address is missing; write IP:{port} (0.0.0.0:{port} listens on every address)"


def _no_literal(literal: str) -> str:
    shown = shortened(literal)
    if literal.isascii() and literal.isdigit():
        return _no_address(shown)
    if re.fullmatch(r"[0-9.]+", literal) or ":" in literal:
        return f"{shown} is not a valid IP address"
    if not re.fullmatch(r"[\w.-]+", literal):
        return "write IP:PORT, such as 10.0.1.10:6443"
    return (
        f"names are not resolved, so that the balancer does not depend on DNS; write the IP address of {shown} instead"
    )


def _port(port: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{spoken(value)}: {shortened(port)} is not a port; ports are 1 to 65535")
    return int(port)

"""What must hold between the keys of lb.yaml.

These rules look at the values as they were read, not at the checked model, so that they find what they can in a file
in which other things are wrong. They step over whatever has the wrong shape: the model says that already.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

from lbproxy.control import config_values as values
from lbproxy.control.config_address import read_address
from lbproxy.control.config_yaml import Document, Path
from lbproxy.core.config import Address, Admin, Algorithm, Balance

# nginx refuses `backup` with its hashing and random methods; ours of the same kind have no use for it either.
_WITHOUT_BACKUP = (
    Algorithm.IP_HASH,
    Algorithm.HASH,
    Algorithm.CONSISTENT_HASH,
    Algorithm.RANDOM,
    Algorithm.RANDOM_TWO,
    Algorithm.SOURCE_HASH,
)


# A worker's counters go to the control plane in one packet (core/messages.py), and no cluster has so many apiservers.
MAX_BACKENDS = 1000


def check(document: Document) -> None:
    """Note in the document what breaks a rule."""
    for rule in _RULES:
        rule(document)


def _attempt(reader: Callable[[object], Any], value: object) -> Any:
    """What a value means, None if that is not to be known."""
    try:
        return reader(value)
    except ValueError:
        return None


def _listeners(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    found = document.get("listeners")
    for index, listener in enumerate(found if isinstance(found, list) else ()):
        if isinstance(listener, dict):
            yield ("listeners", index), listener


def _pools(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    found = document.get("pools")
    for name, pool in (found if isinstance(found, dict) else {}).items():
        if isinstance(pool, dict):
            yield ("pools", name), pool


def _backends(document: Document, path: Path) -> Iterator[tuple[Path, Any]]:
    found = document.get(*path, "backends")
    for index, backend in enumerate(found if isinstance(found, list) else ()):
        yield (*path, "backends", index), backend


def _binds(document: Document) -> Iterator[tuple[Path, Address]]:
    for path, listener in _listeners(document):
        bind = listener.get("bind")
        for index, text in enumerate(bind if isinstance(bind, list) else [bind]):
            address = _attempt(read_address, text)
            if address is not None:
                yield (*path, "bind", *((index,) if isinstance(bind, list) else ())), address


def _admin_bind(document: Document) -> Iterator[tuple[Path, Address]]:
    written = document.get("admin", "bind")
    address = _attempt(read_address, str(Admin().bind) if written is None else written)
    if address is not None:
        yield ("admin", "bind"), address


def _binds_apart(document: Document) -> None:
    seen: list[tuple[Path, Address]] = []
    # What stands in the file is complained about, not a default.
    admin, binds = list(_admin_bind(document)), list(_binds(document))
    for path, address in binds + admin if ("admin", "bind") in document.lines else admin + binds:
        taken = next(((other, at) for at, other in seen if _overlap(address, other)), None)
        if taken is not None:
            other, at = taken
            place = document.place(at)
            where = f"in line {document.line(at)} ({place})" if at in document.lines else f"by default for {place}"
            words = "is bound already" if address.text == other.text else f"overlaps {other.text}, bound"
            document.complain(path, f"{address.text} {words} {where}; use another address or port")
        seen.append((path, address))


def _overlap(one: Address, other: Address) -> bool:
    """Whether the second bind would fail. An IPv6 socket does not stand for IPv4, as in nginx (ipv6only=on)."""
    if (one.family, one.port) != (other.family, other.port):
        return False
    if one.host == other.host:
        return True
    return one.family != "unix" and any(ipaddress.ip_address(address.host).is_unspecified for address in (one, other))


def _names_apart(document: Document) -> None:
    seen: dict[str, int] = {}
    for path, listener in _listeners(document):
        bind = listener.get("bind")
        name = listener.get("name", bind[0] if isinstance(bind, list) and bind else bind)
        if not isinstance(name, str):
            continue
        if name in seen and "name" in listener:
            document.complain((*path, "name"), f'another listener is named "{name}" in line {seen[name]}')
        seen.setdefault(name, document.line((*path, "name")))


def _pools_named(document: Document) -> None:
    """Listeners name pools that exist, and every pool is named. A slip of the pen is one mistake, not two."""
    pools = document.get("pools")
    if not isinstance(pools, dict) or not pools:
        return
    meant: set[str] = set()
    for path, listener in _listeners(document):
        name = listener.get("pool")
        if not isinstance(name, str):
            meant.update(pools)  # which one is not to be known
            continue
        close = name if name in pools else values.nearest(name, pools)
        meant.add(close)
        if name not in pools:
            advice = f"did you mean {close}?" if close else f"there is {', '.join(pools)}"
            document.complain((*path, "pool"), f"no pool is named {values.spoken(name)}; {advice}")
    for name in pools:
        if name not in meant:
            words = f"no listener names this pool; write `pool: {name}` in one, or remove the pool"
            document.complain(("pools", name), words)


def _lists_filled(document: Document) -> None:
    if document.get("listeners") == []:
        document.complain(("listeners",), "the list is empty: name at least one listener")
    if document.get("pools") == {}:
        document.complain(("pools",), "there is no pool: name at least one")
    for path, listener in _listeners(document):
        if listener.get("bind") == []:
            document.complain((*path, "bind"), "the list is empty: name at least one address")
    for path, pool in _pools(document):
        if pool.get("backends") == []:
            document.complain((*path, "backends"), "the list is empty: a pool needs at least one backend")
        if document.get(*path, "health_check", "expect") == []:
            document.complain(
                (*path, "health_check", "expect"), "the list is empty: name at least one status, such as 200"
            )


def _backends_counted(document: Document) -> None:
    count = sum(len(list(_backends(document, path))) for path, _ in _pools(document))
    if count > MAX_BACKENDS:
        document.complain(
            ("pools",), f"{count} backends are too many, the most is {MAX_BACKENDS} in all pools together"
        )


def _backends_apart(document: Document) -> None:
    for pool, _ in _pools(document):
        seen: dict[tuple[str, int], int] = {}
        for path, backend in _backends(document, pool):
            address = _attempt(read_address, backend.get("address") if isinstance(backend, dict) else backend)
            if address is None:
                continue
            key = (address.host, address.port)
            if key in seen:
                words = f"{address.text} is in this pool already, in line {seen[key]}"
                document.complain(path, f"{words}; for a larger share of the connections give it a larger weight")
            seen.setdefault(key, document.line(path))


def _backups_fit(document: Document) -> None:
    for pool, content in _pools(document):
        backends = list(_backends(document, pool))
        backups = [path for path, backend in backends if _is_backup(backend)]
        if backups and len(backups) == len(backends):
            document.complain((*pool, "backends"), "every backend is a backup: remove `backup` from at least one")
        algorithm = _balance(content).algorithm
        if backups and algorithm in _WITHOUT_BACKUP:
            words = f"{algorithm.value} cannot be combined with backup backends; use round_robin, least_conn or first"
            document.complain((*pool, "balance"), words)


def _is_backup(backend: Any) -> bool:
    return isinstance(backend, dict) and _attempt(values.boolean, backend.get("backup")) is True


def _balance(pool: dict[str, Any]) -> Balance:
    return _attempt(values.balance, pool.get("balance")) or Balance()


def _balance_fits_mode(document: Document) -> None:
    tcp = {
        pool: path
        for path, listener in _listeners(document)
        if listener.get("mode") == "tcp" and isinstance(pool := listener.get("pool"), str)
    }
    for path, pool in _pools(document):
        if path[1] not in tcp:
            continue
        balance = _balance(pool)
        if balance.algorithm is Algorithm.IP_HASH:
            words = (
                "ip_hash does not exist in tcp mode, as in nginx's stream; source_hash keeps a client at its backend"
            )
            document.complain((*path, "balance"), words)
        elif balance.key not in ("", "remote_addr"):
            words = f"a tcp listener sees no requests, so it cannot hash {balance.key}; use remote_addr or source_hash"
            document.complain((*path, "balance"), words)


def _keys_have_certificates(document: Document) -> None:
    for path, pool in _pools(document):
        check = pool.get("health_check")
        key: Path = (*path, "health_check", "client_key")
        if not isinstance(check, dict) or document.is_spoiled(key):
            continue
        if check.get("client_key") and not check.get("client_cert"):
            document.complain(key, "a key without client_cert has no use; name both")


_RULES = (
    _lists_filled,
    _binds_apart,
    _names_apart,
    _pools_named,
    _backends_counted,
    _backends_apart,
    _backups_fit,
    _balance_fits_mode,
    _keys_have_certificates,
)

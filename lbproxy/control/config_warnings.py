"""What works and will hurt: each warning says what will happen, and what to write instead.

Nothing here is refused. Most of it is a value that is right somewhere else and wrong in front of apiservers, or a limit
of this host that the file knows nothing of.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lbproxy.control.config_host import Host
from lbproxy.control.config_problem import Problem
from lbproxy.control.config_yaml import Document, Path
from lbproxy.core.config import (
    RESERVED_FDS,
    Address,
    Algorithm,
    BackendState,
    CheckType,
    Config,
    HealthCheck,
    Listener,
    Mode,
    OnDead,
    Pool,
    connections_within,
)

CERTIFICATES = ("ca_file", "client_cert", "client_key")

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")  # RFC 9110 section 9.2.1
# client-go asks for watches of 5 to 10 minutes (reflector.go), and one of a quiet resource says nothing before its end.
_QUIET_WATCH = 660.0
_REQUEST_TIMEOUT = 60.0  # kube-apiserver --request-timeout
_APISERVER_IDLE = 90.0  # when an apiserver closes an idle connection (Go's IdleTimeout in k8s.io/apiserver)
_FEW_CONNECTIONS = 2000  # what a limit of 4096 descriptors allows

Warnings = Iterator[tuple[Path, str]]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What the rules look at. `host` is None where the file is judged by itself."""

    document: Document
    config: Config
    host: Host | None

    def listeners(self) -> Iterator[tuple[Path, Listener]]:
        for index, listener in enumerate(self.config.listeners):
            yield ("listeners", index), listener

    def pools(self) -> Iterator[tuple[Path, Pool]]:
        for pool in self.config.pools:
            yield ("pools", pool.name), pool

    def timeout(self, listener: Path, name: str) -> Path:
        """Where a listener's timeout is written: its own, or the one for all."""
        own = (*listener, "timeouts", name)
        return own if own in self.document.lines else ("timeouts", name)

    def users(self, pool: Pool) -> Iterator[Listener]:
        return (listener for listener in self.config.listeners if listener.pool == pool.name)


def warnings(document: Document, config: Config, host: Host | None) -> tuple[Problem, ...]:
    """Everything to be said about an accepted configuration, in the order of its lines."""
    subject = _Subject(document, config, host)
    found = dict.fromkeys(warning for rule in _RULES for warning in rule(subject))  # two listeners share a timeout
    problems = (document.problem(document.written(path), words) for path, words in found)
    return tuple(sorted(problems, key=lambda problem: problem.line))


# -- timeouts ----------------------------------------------------------------------------------------------------


def _timeouts(subject: _Subject) -> Warnings:
    for path, listener in subject.listeners():
        timeouts = listener.timeouts
        if 0 < timeouts.idle < _QUIET_WATCH:
            words = f"{timeouts.idle:g} s cuts watches and exec sessions that are merely quiet; write 0 or at least 11m"
            yield subject.timeout(path, "idle"), words
        if listener.mode is Mode.HTTP and timeouts.response_header < _REQUEST_TIMEOUT:
            words = (
                f"after {timeouts.response_header:g} s clients get a 504 for what the apiserver, which gives a request "
                "60 s, may still finish; write at least 60s"
            )
            yield subject.timeout(path, "response_header"), words
        pool = subject.config.pool(listener.pool)
        if len(pool.backends) > 1 and pool.retry.tries != 1 and timeouts.connect >= pool.retry.deadline:
            words = (
                f"one silent backend uses up all of retry.deadline ({pool.retry.deadline:g} s), and no other one is "
                f"tried; write less than {pool.retry.deadline / 2:g}s, or a larger deadline"
            )
            yield subject.timeout(path, "connect"), words


def _kept_too_long(subject: _Subject) -> Warnings:
    for path, pool in subject.pools():
        http = any(listener.mode is Mode.HTTP for listener in subject.users(pool))
        if http and pool.idle.max and pool.idle.timeout >= _APISERVER_IDLE:
            words = (
                "an apiserver closes idle connections after 90 s, and a request may meet that and fail; write less, "
                "such as 45s"
            )
            yield (*path, "idle", "timeout"), words


def _silent_peers(subject: _Subject) -> Warnings:
    for name in ("client", "backend"):
        if not getattr(subject.config.tcp, name).user_timeout:
            words = (
                f"a {name} whose host vanishes while data is on its way to it is given up by the kernel after about "
                "15 minutes only, and its streams hang for so long; write 10s to 30s"
            )
            yield ("tcp", name, "user_timeout"), words


# -- backends ----------------------------------------------------------------------------------------------------


def _balance(subject: _Subject) -> Warnings:
    for path, pool in subject.pools():
        # Always: where the clients are is not known here, and nodes and their masters share a /24 more often than not.
        if pool.balance.algorithm is Algorithm.IP_HASH:
            words = "ip_hash sends all IPv4 clients of one /24 to one backend; source_hash spreads single addresses"
            yield (*path, "balance"), words


def _backends(subject: _Subject) -> Warnings:
    for path, pool in subject.pools():
        ready = [backend for backend in pool.backends if backend.state is BackendState.READY]
        place = (*path, "backends")
        if not ready:
            yield place, "no backend is in state ready: nothing will be served; write `state: ready` for at least one"
        elif len(pool.backends) == 1:
            yield place, "there is one backend only: when it fails, nothing is served; name every apiserver"
        elif len(ready) == 1:
            words = (
                f"only {ready[0].address} is in state ready: when it fails, nothing is served; write "
                "`state: ready` for another one"
            )
            yield place, words


def _retry(subject: _Subject) -> Warnings:
    for path, pool in subject.pools():
        unsafe = [method for method in pool.retry.methods if method not in _SAFE_METHODS]
        if unsafe:
            words = (
                f"{', '.join(unsafe)} may then be executed twice, with an answer that fits only one of them; "
                "write [GET, HEAD, OPTIONS]"
            )
            yield (*path, "retry", "methods"), words
        if pool.retry.tries == 1 and len(pool.backends) > 1:
            words = "a connection that the first backend refuses is not tried at another one; write 0: every one once"
            yield (*path, "retry", "tries"), words


def _loops(subject: _Subject) -> Warnings:
    for path, pool in subject.pools():
        for index, backend in enumerate(pool.backends):
            for listener in subject.config.listeners:
                if any(_is_reached(backend.address, bind, subject.host) for bind in listener.bind):
                    words = (
                        f"{backend.address} is lbproxy's own listener {listener.name}: connections go round in circles "
                        "until nothing is left; write the apiserver's own address and port"
                    )
                    yield (*path, "backends", index), words


def _is_reached(address: Address, bind: Address, host: Host | None) -> bool:
    """Whether a dial of the address arrives at what is bound."""
    if (address.family, address.port) != (bind.family, bind.port):
        return False
    if address.host == bind.host:
        return True
    unspecified = bind.family != "unix" and ipaddress.ip_address(bind.host).is_unspecified
    return unspecified and host is not None and host.is_own(address)


# -- health checks -----------------------------------------------------------------------------------------------


def _checks(subject: _Subject) -> Warnings:
    for path, pool in subject.pools():
        place = (*path, "health_check")
        yield from _certificates(place, pool.health_check)
        yield from _verdicts(place, pool)
        yield from _two_protocols(subject, place, pool)


def _certificates(path: Path, check: HealthCheck) -> Warnings:
    kind = check.type.value if check.type else ""
    for name in _useless_tls(check):
        yield (*path, name), f"has no effect: the check's type is {kind}; write type: https"
    if check.token_file is not None and check.type is CheckType.HTTP:
        yield (*path, "token_file"), "the token is sent without encryption: the check's type is http"
    if check.type is CheckType.HTTPS and check.ca_file is None and check.verify is None:
        shown = " and is shown the token" if check.token_file is not None else ""
        words = (
            f"the check verifies no certificate: whoever has a backend's address passes for an apiserver{shown}; write "
            "ca_file: /etc/kubernetes/pki/ca.crt, or verify: false if that is meant"
        )
        yield (*path, "ca_file"), words


def _useless_tls(check: HealthCheck) -> list[str]:
    if check.type is CheckType.HTTPS:
        return []
    return [name for name in (*CERTIFICATES, "verify", "server_name") if getattr(check, name) not in (None, False)]


def _verdicts(path: Path, pool: Pool) -> Warnings:
    check = pool.health_check
    if check.type is CheckType.NONE:
        words = (
            "a backend that is dead or hangs is found out by clients only, each of which waits for it; write "
            "type: https (or http, or tcp)"
        )
        yield (*path, "type"), words
        return
    if check.fall == 1 and pool.on_dead is OnDead.CLOSE:
        words = "a single check that is lost closes every connection to the backend; write 2 or more"
        yield (*path, "fall"), words
    if check.type is not CheckType.TCP and check.path.partition("?")[0] in ("/livez", "/healthz", "/ping"):
        words = (
            f"{check.path} stays 200 while an apiserver starts or shuts down, and it is sent connections that it "
            "will cut; write /readyz"
        )
        yield (*path, "path"), words


def _two_protocols(subject: _Subject, path: Path, pool: Pool) -> Warnings:
    check = pool.health_check
    if check.type is not CheckType.HTTPS or check.port is not None:
        return
    for listener in subject.users(pool):
        if listener.mode is Mode.HTTP:
            words = (
                f"listener {listener.name} speaks plain HTTP to the ports that this check speaks TLS to: one of them "
                "will fail; write type: http, or the port of the other protocol in port"
            )
            yield (*path, "type"), words
            return


# -- http --------------------------------------------------------------------------------------------------------


def _trust(subject: _Subject) -> Warnings:
    for index, text in enumerate(subject.config.http.trusted_proxies):
        if text.endswith("/0"):
            words = (
                f"with {text} every client may say that it is another one (X-Forwarded-For); name the proxies' own "
                "addresses"
            )
            yield ("http", "trusted_proxies", index), words


# -- the host ----------------------------------------------------------------------------------------------------


def _addresses(subject: _Subject) -> Warnings:
    if subject.host is None:
        return
    for path, listener in subject.listeners():
        for index, address in enumerate(listener.bind):
            if listener.freebind or address.family == "unix" or subject.host.can_bind(address):
                continue
            words = (
                f"no interface of this host has {address.host}, and lbproxy will not start before one has; write "
                "freebind: true for an address that keepalived brings"
            )
            yield (*path, "bind", index), words


def _descriptors(subject: _Subject) -> Warnings:
    """Two for each connection. lbproxy raises its soft limit to the hard one, so that is what counts, per worker."""
    host = subject.host
    if host is None or not host.max_fds:
        return
    most = connections_within(host.max_fds)
    wanted = [listener.max_connections for listener in subject.config.listeners]
    total = sum(each or 0 for each in wanted)
    limit = f"{host.max_fds} file descriptors (ulimit -Hn)"
    advice = "raise it (LimitNOFILE= of a systemd unit, --ulimit nofile= of a container)"
    if total > most:
        words = (
            f"max_connections of {total} need {2 * total + RESERVED_FDS} file descriptors in each worker, and the "
            f"limit is {limit}: beyond {most} connections nobody is let in; {advice}, or write less"
        )
        path: Path = ("listeners", next(index for index, each in enumerate(wanted) if each), "max_connections")
        yield path, words
    elif most < _FEW_CONNECTIONS:
        yield (), f"{limit} allow {most} connections in each worker, two for each; {advice}"


def _queues(subject: _Subject) -> Warnings:
    host = subject.host
    if host is None or not host.somaxconn:
        return
    for path, listener in subject.listeners():
        if listener.backlog > host.somaxconn:
            words = (
                f"the kernel cuts {listener.backlog} to net.core.somaxconn, {host.somaxconn}, and a herd of clients "
                f"that is larger waits a second or more; `sysctl -w net.core.somaxconn={listener.backlog}`"
            )
            yield (*path, "backlog"), words


def _workers(subject: _Subject) -> Warnings:
    if subject.host is not None and subject.config.workers > subject.host.cores:
        count = subject.host.cores
        words = (
            f"{subject.config.workers} workers take turns on {count} core{'' if count == 1 else 's'}, which costs "
            "latency and gains nothing; write auto"
        )
        yield ("workers",), words


_RULES: tuple[Callable[[_Subject], Warnings], ...] = (
    _timeouts,
    _kept_too_long,
    _silent_peers,
    _balance,
    _backends,
    _retry,
    _loops,
    _checks,
    _trust,
    _addresses,
    _descriptors,
    _queues,
    _workers,
)

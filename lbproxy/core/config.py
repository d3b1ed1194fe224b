"""The configuration as the rest of lbproxy sees it: checked, complete, immutable.

Every field of lb.yaml stands here once: its name, type, default and one sentence of documentation. The control
plane derives the validating model and the JSON Schema from these classes (control/configfile.py); workers get
instances over the control channel and never import a validation library.

Durations are seconds as float, sizes are bytes as int; the `Annotated` markers say how lb.yaml may spell them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal

RESERVED_FDS = 128  # of each worker: listening sockets, the channel, pipes and idle backend connections
LEAST_CONNECTIONS = 16  # that a worker lets in, however few descriptors it may have


def connections_within(max_fds: int) -> int:
    """Client connections of one worker that a limit of descriptors allows: two sockets each."""
    return max((max_fds - RESERVED_FDS) // 2, LEAST_CONNECTIONS)


class Unit(Enum):
    """How a number may be written in lb.yaml."""

    DURATION = "duration"  # 2s, 500ms, 10m, 1h or a number of seconds
    SIZE = "size"  # 64KiB, 1MiB or a number of bytes
    RATIO = "ratio"  # 20% or a number from 0 to 1
    WHOLE = "whole"  # a duration of whole seconds: the kernel or nginx's arithmetic knows no finer ones


class Form(Enum):
    """What a text in lb.yaml must look like."""

    NAME = "name"  # stands in log lines, metric labels and URLs
    CIDR = "cidr"  # 10.0.0.0/8, or one address
    FILE = "file"  # exists and can be read; relative to the directory of lb.yaml
    HOST = "host"  # can stand in a Host header
    SERVER_NAME = "server_name"  # TLS can ask for it: a DNS name or an IP address
    TARGET = "target"  # a request target in origin form
    TOKEN = "token"  # RFC 9110 section 5.6.2, such as a method
    SOCKET = "socket"  # the path of a unix socket


Seconds = Annotated[float, Unit.DURATION]
Bytes = Annotated[int, Unit.SIZE]
Ratio = Annotated[float, Unit.RATIO]
WholeSeconds = Annotated[float, Unit.WHOLE]

Name = Annotated[str, Form.NAME]
Cidr = Annotated[str, Form.CIDR]
File = Annotated[str, Form.FILE]
HostText = Annotated[str, Form.HOST]
ServerName = Annotated[str, Form.SERVER_NAME]
Target = Annotated[str, Form.TARGET]
Token = Annotated[str, Form.TOKEN]
SocketPath = Annotated[str, Form.SOCKET]

DEFAULT_SOCKET = "/run/lbproxy/lbproxy.sock"


class Mode(Enum):
    TCP = "tcp"
    HTTP = "http"


class BackendState(Enum):
    """What the operator says of a backend. nginx's `down` is MAINT."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class CheckType(Enum):
    HTTPS = "https"
    HTTP = "http"
    TCP = "tcp"
    NONE = "none"


class OnDead(Enum):
    CLOSE = "close"
    KEEP = "keep"


class Rebalance(Enum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


class AllDown(Enum):
    TRY = "try"
    REJECT = "reject"


class Algorithm(Enum):
    ROUND_ROBIN = "round_robin"
    LEAST_CONN = "least_conn"
    IP_HASH = "ip_hash"
    SOURCE_HASH = "source_hash"
    RANDOM = "random"
    RANDOM_TWO = "random_two"
    FIRST = "first"
    HASH = "hash"
    CONSISTENT_HASH = "consistent_hash"


class ForwardedFor(Enum):
    APPEND = "append"
    SET = "set"
    OFF = "off"


class LogPoint(Enum):
    OPEN = "open"
    CLOSE = "close"


def _doc(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    word: str = "",
    advice: str = "",
) -> Any:
    """A field with a default and its one sentence of documentation.

    Bounds hold for each element of a tuple. `word` is what lb.yaml may say in place of a value: it means None, or, in
    a field that cannot be None, what the machine has. `advice` is added to the message about a value out of bounds.
    """
    extra = {"doc": doc, "minimum": minimum, "maximum": maximum, "word": word, "advice": advice}
    return field(default=default, metadata=extra)


def _required(doc: str, *, otherwise: str = "") -> Any:
    """A field without a default. `otherwise` says what stands for it if lb.yaml does not name it, if anything does."""
    return field(metadata={"doc": doc, "otherwise": otherwise})


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or dial. `text` is what the operator wrote: nginx's consistent hash hashes that text."""

    text: str
    host: str = ""  # an IP literal without brackets, or the path of a unix socket
    port: int = 0
    family: str = "inet"  # inet | inet6 | unix

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Balance:
    """Algorithm and, for the hashes, the key: remote_addr, uri, host or header:NAME."""

    algorithm: Algorithm = Algorithm.ROUND_ROBIN
    key: str = ""


@dataclass(frozen=True, slots=True)
class Backend:
    address: Address = _required("IP:PORT of the apiserver; [IPv6]:PORT; unix:/path.")
    weight: int = _doc(
        1,
        "Share of the connections, relative to the other backends.",
        minimum=1,
        maximum=65535,
        advice="to take a backend out, write `state: drain` or `state: maint`",
    )
    max_connections: int = _doc(
        0, "Connections (tcp) or requests in flight (http), of all workers together; 0 is no limit.", minimum=0
    )
    max_fails: int = _doc(1, "Failed tries after which live traffic avoids the backend; 0 never.", minimum=0)
    fail_timeout: WholeSeconds = _doc(
        10.0, "How long it is avoided, as nginx's fail_timeout (whole seconds).", minimum=0
    )
    backup: bool = _doc(False, "Used only when no primary backend is eligible.")
    state: BackendState = _doc(BackendState.READY, "ready, drain (no new connections) or maint (nginx's down).")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    type: CheckType | None = _doc(
        None, "https, http, tcp or none; unset: https if a tcp listener uses the pool, else http."
    )
    path: Target = _doc("/readyz", "What to GET; /readyz is the apiserver's readiness.")
    expect: tuple[int, ...] = _doc((200,), "Status codes that mean ready.", minimum=100, maximum=599)
    interval: Seconds = _doc(2.0, "Time from one check to the next.", minimum=0.01)
    fast_interval: Seconds = _doc(0.5, "The interval while a backend is changing between up and down.", minimum=0.01)
    connect_timeout: Seconds = _doc(1.0, "Budget of the TCP connect; the TLS handshake has twice that.", minimum=0.01)
    timeout: Seconds = _doc(5.0, "Budget of the answer.", minimum=0.01)
    rise: int = _doc(3, "Successes in a row that bring a backend back (the first ever needs one).", minimum=1)
    fall: int = _doc(2, "Failures in a row that take a backend out.", minimum=1)
    jitter: Ratio = _doc(
        0.2, "Random part of the interval, both ways, so that balancers do not check in step.", minimum=0
    )
    ca_file: File | None = _doc(None, "PEM file with the CAs that sign the backends' certificates.")
    verify: bool | None = _doc(None, "Verify the certificate; unset: exactly when ca_file is given.")
    server_name: ServerName | None = _doc(
        None, "Name to expect in the certificate (and SNI); unset: the backend's address."
    )
    client_cert: File | None = _doc(
        None, "PEM certificate shown to the backend, for clusters without anonymous access."
    )
    client_key: File | None = _doc(None, "Its key; unset: in the same file as client_cert.")
    token_file: File | None = _doc(None, "Bearer token sent with each check; the file is read anew each time.")
    port: int | None = _doc(None, "Port to check; unset: the backend's own.", minimum=1, maximum=65535)


@dataclass(frozen=True, slots=True)
class Retry:
    tries: int = _doc(0, "Backends tried for one connection or request; 0 is every backend once.", minimum=0)
    deadline: Seconds = _doc(3.0, "Bound on the time of all tries together.", minimum=0.01)
    methods: tuple[Token, ...] = _doc(
        ("GET", "HEAD", "OPTIONS"),
        "Methods sent again, once, when a reused connection dies before any answer.",
    )


@dataclass(frozen=True, slots=True)
class Idle:
    """Kept-alive connections to one backend, per worker (http mode)."""

    max: int = _doc(32, "Kept-alive connections kept per backend and worker.", minimum=0)
    timeout: Seconds = _doc(
        45.0, "How long one may idle; the apiserver closes at 90 s, so lbproxy goes first.", minimum=0
    )
    age: Seconds = _doc(3600.0, "How old one may grow.", minimum=0)
    requests: int = _doc(0, "Requests after which one is closed; 0 is no limit.", minimum=0)


@dataclass(frozen=True, slots=True)
class Pool:
    name: Name = _required("Its name: in lb.yaml the key under `pools`.")
    backends: tuple[Backend, ...] = _required("The apiservers: addresses, or mappings with `address`.")
    balance: Balance = _doc(Balance(), "How a backend is chosen.")
    health_check: HealthCheck = _doc(HealthCheck(), "How a backend's health is found out.")
    on_dead: OnDead = _doc(OnDead.CLOSE, "Connections to a backend that is found dead: close them, or keep them.")
    close_spread: Seconds = _doc(1.0, "They are closed within this time, not all at once.", minimum=0, maximum=60)
    drain_timeout: Seconds = _doc(
        30.0,
        "Connections to a backend that is not ready, while others are: closed after this time; 0 is never.",
        minimum=0,
    )
    all_down: AllDown = _doc(
        AllDown.TRY, "With no ready backend: try those that are alive (dead ones never), or reject."
    )
    slow_start: WholeSeconds = _doc(
        60.0, "How long the share of a backend that has come back grows (whole seconds); not for hashes.", minimum=0
    )
    rebalance: Rebalance = _doc(
        Rebalance.AUTO,
        "Move long streams when backends have too different numbers of them: auto is http listeners only.",
    )
    retry: Retry = _doc(Retry(), "What happens after a failed try.")
    idle: Idle = _doc(Idle(), "Kept-alive connections to the backends (http mode).")


@dataclass(frozen=True, slots=True)
class Timeouts:
    connect: Seconds = _doc(1.0, "One try to connect to a backend.", minimum=0.01)
    request_header: Seconds = _doc(32.0, "From the first byte of a request to the end of its head.", minimum=0.01)
    response_header: Seconds = _doc(
        75.0, "From the request to the response's head, and each pause in its body; not for long streams.", minimum=0.01
    )
    idle: Seconds = _doc(0.0, "No byte either way on a relay or stream; 0 is none: liveness is TCP's.", minimum=0)
    half_close: Seconds = _doc(30.0, "After one side has closed, how long the other may idle.", minimum=0)
    keepalive: Seconds = _doc(120.0, "An idle client connection between requests.", minimum=0)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    idle: WholeSeconds = _doc(
        15.0, "TCP_KEEPIDLE: idle time before the first probe (whole seconds).", minimum=1, maximum=32767
    )
    interval: WholeSeconds = _doc(5.0, "TCP_KEEPINTVL: time between probes (whole seconds).", minimum=1, maximum=32767)
    count: int = _doc(3, "TCP_KEEPCNT: unanswered probes that end the connection.", minimum=1, maximum=127)


@dataclass(frozen=True, slots=True)
class TcpSide:
    nodelay: bool = _doc(True, "TCP_NODELAY.")
    user_timeout: Seconds = _doc(
        30.0,
        "TCP_USER_TIMEOUT: data may stay unacknowledged, or not taken by a stalled reader, this long; 0: the kernel's.",
        minimum=0,
        maximum=86400,
    )
    keepalive: KeepAlive = _doc(KeepAlive(), "TCP keepalive probes.")


@dataclass(frozen=True, slots=True)
class Tcp:
    client: TcpSide = _doc(TcpSide(), "Sockets towards clients.")
    backend: TcpSide = _doc(TcpSide(True, 10.0, KeepAlive(5.0, 1.0, 5)), "Sockets towards backends.")


@dataclass(frozen=True, slots=True)
class Http:
    host: HostText = _doc("preserve", "Host header sent to the backend: preserve, backend (its address) or a text.")
    forwarded_for: ForwardedFor = _doc(
        ForwardedFor.APPEND, "X-Forwarded-For: append the client's address, set it, or off."
    )
    trusted_proxies: tuple[Cidr, ...] = _doc(
        (), "CIDRs whose X-Forwarded-Proto and -Host are kept; if set, only theirs and X-Forwarded-For."
    )
    max_header: Bytes = _doc(1 << 20, "Largest request or response head.", minimum=1024)
    max_body: Bytes = _doc(0, "Largest request body; 0 is no limit.", minimum=0)
    recovery_rate: int = _doc(
        200, "Watches and lists let in per second after an outage, the others get 429; 0 is no limit.", minimum=0
    )
    recovery_time: Seconds = _doc(60.0, "How long after the outage.", minimum=0)
    watch_failover: bool = _doc(
        True, "A watch whose backend dies goes on from another one, inside the same response and without a gap."
    )


@dataclass(frozen=True, slots=True)
class Listener:
    name: Name = _required("Name in logs and metrics.", otherwise="the first bind address")
    bind: tuple[Address, ...] = _required("IP:PORT to listen on, or a list; [::]:PORT; unix:/path.")
    mode: Mode = _required("tcp relays bytes, TLS and all; http balances single requests.")
    pool: Name = _required("The pool whose backends serve it.")
    freebind: bool = _doc(True, "IP_FREEBIND: bind an address that this host does not hold yet (keepalived's VIP).")
    backlog: int = _doc(
        4096, "Length of the accept queue; the kernel caps it at net.core.somaxconn.", minimum=1, maximum=65535
    )
    max_connections: int | None = _doc(
        None,
        "Client connections, of all workers together; auto: what RLIMIT_NOFILE allows each.",
        minimum=1,
        word="auto",
    )
    timeouts: Timeouts = _doc(Timeouts(), "Overrides of the global timeouts.")


@dataclass(frozen=True, slots=True)
class Admin:
    bind: Address | None = _doc(
        Address("127.0.0.1:9180", "127.0.0.1", 9180),
        "Where /livez, /metrics and /status are served; off: nowhere.",
        word="off",
    )
    socket: SocketPath | None = _doc(
        DEFAULT_SOCKET,
        "Where `lbproxy drain`, `status` and the like reach it; the default moves to $XDG_RUNTIME_DIR if need be.",
        word="off",
    )


@dataclass(frozen=True, slots=True)
class AccessLog:
    format: Literal["json", "text", "tcplog", "httplog"] = _doc(
        "json", "json: one object per line; text: for people; tcplog, httplog: HAProxy's."
    )
    at: tuple[LogPoint, ...] = _doc(
        (LogPoint.CLOSE,), "open, close or both: when a line is written; open for tcp connections and long streams."
    )


@dataclass(frozen=True, slots=True)
class Log:
    access: AccessLog | None = _doc(
        AccessLog(), "One line per connection (tcp) or request (http), to stdout; or off.", word="off"
    )
    level: Literal["debug", "info", "warning", "error"] = _doc("info", "debug, info, warning or error.")
    format: Literal["json", "text"] = _doc("json", "Of all other lines: json, or text for people.")


@dataclass(frozen=True, slots=True)
class Shutdown:
    delay: Seconds = _doc(0.0, "SIGTERM: /readyz fails at once, and accepting goes on for this long.", minimum=0)
    drain: Seconds = _doc(30.0, "Then existing connections have this long to end.", minimum=0)
    spread: Seconds = _doc(
        10.0, "Meanwhile watches are ended as at the server's own timeout, spread over this time.", minimum=0
    )


@dataclass(frozen=True, slots=True)
class Config:
    listeners: tuple[Listener, ...] = _required("Where clients connect.")
    pools: tuple[Pool, ...] = _required("The backends: a mapping of a name to each pool.")
    workers: int = _doc(1, "Worker processes; auto is one per core.", minimum=1, maximum=1024, word="auto")
    tcp: Tcp = _doc(Tcp(), "Socket options.")
    http: Http = _doc(Http(), "http mode.")
    admin: Admin = _doc(Admin(), "The admin endpoint.")
    log: Log = _doc(Log(), "Logging.")
    shutdown: Shutdown = _doc(Shutdown(), "What SIGTERM does.")

    def pool(self, name: str) -> Pool:
        """The pool of that name. Raises KeyError: an accepted configuration names only pools that exist."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise KeyError(name)

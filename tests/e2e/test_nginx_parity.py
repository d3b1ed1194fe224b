"""A real nginx and a real lbproxy, side by side: the same requests, and every decision must be the same.

Both stand in front of the same backends, which say in their answer who they are. Each case has an upstream in nginx
and a pool in lbproxy; a plan sends the same requests to both, from the same source addresses, and compares who
answered. One worker each: without a shared zone nginx, too, decides per worker.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.process import free_port, lbproxy, wait_for
from tests.programs import require

SEED = 20161130
FAIL_WINDOW = 3.1  # seconds after which both clocks have passed fail_timeout=1s by whole seconds
HOLD = b"/hold"


class Backend:
    """Answers each request with its port. A request for /hold keeps its connection until it is released."""

    def __init__(self) -> None:
        self.port = 0
        self._listening: socket.socket | None = None
        self._held: list[socket.socket] = []
        self.abandoned = 0  # held requests whose client has gone: then the balancer has counted it, too
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        sock.listen(128)
        self._listening = sock
        threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        for sock in self._held:
            sock.close()
        self._held.clear()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _address = listening.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head and (data := sock.recv(65536)):
                head += data
            name = str(self.port).encode()
            if head.split(b" ")[1:2] == [HOLD]:
                sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\n" + name + b"\n")
                self._held.append(sock)
                threading.Thread(target=self._watch, args=(sock,), daemon=True).start()
                continue
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n" % (len(name) + 1, name)
            )
            sock.close()

    def _watch(self, sock: socket.socket) -> None:
        try:
            sock.recv(1)
        except OSError:
            return
        self._held.remove(sock)
        sock.close()
        self.abandoned += 1


@dataclass(frozen=True)
class Server:
    """A line of an upstream block, and a backend of a pool."""

    backend: int
    weight: int = 1
    max_fails: int = 1
    fail_timeout: int = 30
    max_conns: int = 0
    backup: bool = False
    down: bool = False

    def nginx(self, address: str) -> str:
        text = f"server {address} weight={self.weight} max_fails={self.max_fails} fail_timeout={self.fail_timeout}s"
        text += f" max_conns={self.max_conns}" if self.max_conns else ""
        return text + (" backup" if self.backup else "") + (" down" if self.down else "") + ";"

    def lbproxy(self, address: str) -> str:
        return (
            f"{{address: '{address}', weight: {self.weight}, max_fails: {self.max_fails}, "
            f"fail_timeout: {self.fail_timeout}, max_connections: {self.max_conns}, "
            f"backup: {str(self.backup).lower()}, state: {'maint' if self.down else 'ready'}}}"
        )


@dataclass
class Case:
    name: str
    directive: str  # in nginx's upstream
    balance: str  # in lb.yaml
    servers: tuple[Server, ...]
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))


def draw_cases() -> list[Case]:
    """Every algorithm with several sets of weights, downs and backups, drawn from a fixed seed."""
    rng = random.Random(SEED)
    cases = []

    def servers(count: int, *, backups: bool = False, downs: bool = True) -> tuple[Server, ...]:
        drawn = [Server(index, weight=rng.randint(1, 7), down=downs and rng.random() < 0.15) for index in range(count)]
        drawn[0] = Server(0, weight=drawn[0].weight)
        if backups and count > 2:
            drawn[-1] = Server(count - 1, weight=rng.randint(1, 3), backup=True)
        return tuple(drawn)

    for number in range(8):
        cases.append(Case(f"rr{number}", "", "round_robin", servers(rng.randint(2, 6), backups=number % 2 == 1)))
        cases.append(Case(f"lc{number}", "least_conn;", "least_conn", servers(rng.randint(2, 6))))
    for number in range(4):
        cases.append(Case(f"ip{number}", "ip_hash;", "ip_hash", servers(rng.randint(2, 6))))
        cases.append(Case(f"uri{number}", "hash $request_uri;", "{hash: uri}", servers(rng.randint(2, 6))))
        cases.append(
            Case(f"ring{number}", "hash $request_uri consistent;", "{consistent_hash: uri}", servers(rng.randint(2, 6)))
        )
    three = tuple(Server(index) for index in range(3))
    cases.append(Case("addr", "hash $remote_addr;", "{hash: remote_addr}", three))
    cases.append(Case("host", "hash $host consistent;", "{consistent_hash: host}", three))
    cases.append(Case("header", "hash $http_x_key;", "{hash: 'header:X-Key'}", three))
    return cases


@dataclass
class Rig:
    """Both balancers, running."""

    backends: list[Backend]
    compared: int = 0

    def ask(self, case: Case, target: str = "/", source: str = "127.0.0.1", host: str = "api", key: str = "") -> str:
        """The same request to both; who answered. Fails on the first difference."""
        answers = [_get(port, target, source, host, key) for port in case.ports]
        self.compared += 1
        assert answers[0] == answers[1], (
            f"{case.name}: request {target} from {source}: nginx {answers[0]}, lbproxy {answers[1]}"
        )
        return answers[0]

    def hold(self, case: Case) -> list[socket.socket]:
        """A request to both that stays open."""
        held = []
        names = []
        for port in case.ports:
            sock = _connect(port, "127.0.0.1")
            sock.sendall(f"GET {HOLD.decode()} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
            names.append(_read_name(sock, whole=False))
            held.append(sock)
        self.compared += 1
        assert names[0] == names[1], f"{case.name}: held: nginx {names[0]}, lbproxy {names[1]}"
        return held

    def let_go(self, pair: list[socket.socket]) -> None:
        """Close a held pair, and wait until both balancers have given their backends back."""
        before = sum(backend.abandoned for backend in self.backends)
        for sock in pair:
            sock.close()
        wait_for(lambda: sum(backend.abandoned for backend in self.backends) >= before + 2, "a request is still held")


def _connect(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def _read_name(sock: socket.socket, *, whole: bool) -> str:
    data = b""
    while b"\r\n\r\n" not in data or (b"\n" not in data.split(b"\r\n\r\n", 1)[1]):
        chunk = sock.recv(65536)
        if not chunk:
            break
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode()
    if whole:
        sock.close()
    return body.decode().strip() if status == "200" else "nobody"


def _get(port: int, target: str, source: str, host: str, key: str) -> str:
    sock = _connect(port, source)
    line = f"X-Key: {key}\r\n" if key else ""
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{line}Connection: close\r\n\r\n".encode())
    return _read_name(sock, whole=True)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    extra = [
        Case("fails", "", "round_robin", (Server(0, weight=5, max_fails=3), Server(1, weight=3), Server(2, weight=2))),
        Case(
            "spare",
            "",
            "round_robin",
            (Server(0), Server(1, max_fails=2), Server(4, weight=2, backup=True), Server(5, backup=True)),
        ),
        Case("hashfails", "ip_hash;", "ip_hash", (Server(0), Server(1), Server(2, weight=2))),
        Case("urifails", "hash $request_uri;", "{hash: uri}", (Server(0), Server(1), Server(2))),
        Case("ringfails", "hash $request_uri consistent;", "{consistent_hash: uri}", (Server(0), Server(1), Server(2))),
        Case("recovers", "", "round_robin", (Server(0, fail_timeout=1), Server(1, weight=2), Server(2))),
        Case("full", "", "round_robin", (Server(0, max_conns=2), Server(1, max_conns=1), Server(2, max_conns=3))),
        Case("single", "", "round_robin", (Server(0),)),
    ]
    return draw_cases() + extra


@pytest.fixture(scope="module")
def rig(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("parity")
    backends = [Backend() for _ in range(6)]
    nginx = _start_nginx(directory, cases, backends)
    try:
        with lbproxy(directory, _lb_yaml(cases, backends)):
            rig = Rig(backends)
            yield rig
            print(f"\n{rig.compared} decisions compared with nginx, no difference")
    finally:
        nginx.send_signal(signal.SIGQUIT)
        try:
            nginx.wait(5)
        except subprocess.TimeoutExpired:
            nginx.kill()
            nginx.wait()
        for backend in backends:
            backend.stop()


def _start_nginx(directory: Path, cases: list[Case], backends: list[Backend]) -> subprocess.Popen[bytes]:
    blocks = []
    for case in cases:
        lines = " ".join(server.nginx(backends[server.backend].address) for server in case.servers)
        blocks.append(
            f"upstream {case.name} {{ {case.directive} {lines} }}\n"
            f"server {{ listen 127.0.0.1:{case.ports[0]}; location / {{ proxy_pass http://{case.name}; }} }}"
        )
    paths = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; {paths} proxy_buffering off; proxy_http_version 1.1; proxy_connect_timeout 2s;\n"
        + "\n".join(blocks)
        + "\n}\n"
    )
    process = subprocess.Popen(
        [
            require("nginx"),
            "-p",
            str(directory),
            "-c",
            str(directory / "nginx.conf"),
            "-e",
            str(directory / "nginx.log"),
        ]
    )
    wait_for(lambda: (directory / "nginx.pid").exists() or process.poll() is not None, "nginx did not start")
    assert process.poll() is None, (directory / "nginx.log").read_text()
    return process


def _lb_yaml(cases: list[Case], backends: list[Backend]) -> str:
    listeners, pools = [], []
    for case in cases:
        listeners.append(f"  - {{name: {case.name}, bind: '127.0.0.1:{case.ports[1]}', mode: http, pool: {case.name}}}")
        servers = ", ".join(server.lbproxy(backends[server.backend].address) for server in case.servers)
        pools.append(
            f"  {case.name}: {{balance: {case.balance}, all_down: reject, health_check: {{type: none}}, "
            f"backends: [{servers}]}}"
        )
    return "listeners:\n" + "\n".join(listeners) + "\npools:\n" + "\n".join(pools) + "\nlog: {access: off}"


def _named(cases: list[Case], prefix: str) -> list[Case]:
    return [case for case in cases if case.name.rstrip("0123456789") == prefix]


def _case(cases: list[Case], name: str) -> Case:
    return next(case for case in cases if case.name == name)


def _addresses(rng: random.Random, count: int) -> list[str]:
    return [f"127.{rng.randint(0, 254)}.{rng.randint(0, 254)}.{rng.randint(1, 254)}" for _ in range(count)]


def test_round_robin_and_least_conn_in_sequence(rig: Rig, cases: list[Case]) -> None:
    for case in _named(cases, "rr") + _named(cases, "lc"):
        for _ in range(150):
            rig.ask(case)


def test_least_conn_with_requests_held(rig: Rig, cases: list[Case]) -> None:
    rng = random.Random(SEED + 1)
    for case in _named(cases, "lc"):
        held: list[list[socket.socket]] = []
        for _ in range(100):
            if held and rng.random() < 0.4:
                rig.let_go(held.pop(rng.randrange(len(held))))
            else:
                held.append(rig.hold(case))
        for pair in held:
            rig.let_go(pair)


def test_max_conns(rig: Rig, cases: list[Case]) -> None:
    case = _case(cases, "full")
    held = [rig.hold(case) for _ in range(6)]
    for pair in (rig.hold(case), rig.hold(case)):  # two more than fit: nobody takes them
        for sock in pair:
            sock.close()
    for pair in held[2:5]:
        rig.let_go(pair)
    held[2:5] = [rig.hold(case) for _ in range(3)]
    for pair in held:
        rig.let_go(pair)


def test_ip_hash(rig: Rig, cases: list[Case]) -> None:
    rng = random.Random(SEED + 2)
    for case in _named(cases, "ip"):
        for source in _addresses(rng, 250):
            rig.ask(case, source=source)


def test_hashes_of_the_uri(rig: Rig, cases: list[Case]) -> None:
    rng = random.Random(SEED + 3)
    for case in _named(cases, "uri") + _named(cases, "ring"):
        for _ in range(120):
            rig.ask(case, f"/api/v1/namespaces/n{rng.randint(0, 999)}/pods?limit={rng.randint(1, 500)}")


def test_hashes_of_other_keys(rig: Rig, cases: list[Case]) -> None:
    rng = random.Random(SEED + 4)
    for source in _addresses(rng, 100):
        rig.ask(_case(cases, "addr"), source=source)
    for number in range(100):
        rig.ask(_case(cases, "host"), host=f"host{number}.example")
        rig.ask(_case(cases, "header"), key=f"key{number % 60}" if number % 7 else "")


def test_a_single_backend(rig: Rig, cases: list[Case]) -> None:
    case = _case(cases, "single")
    for _ in range(5):
        assert rig.ask(case) == str(rig.backends[0].port)


def test_failures(rig: Rig, cases: list[Case]) -> None:
    """max_fails, effective weights, hashing around a dead one, the backup tier, and the end of fail_timeout."""
    rng = random.Random(SEED + 5)
    names = ("fails", "spare", "hashfails", "urifails", "ringfails", "single", "recovers")
    sources = _addresses(rng, 40)
    rig.backends[0].stop()
    try:
        for number in range(40):
            for name in names:
                rig.ask(_case(cases, name), f"/{number}", source=sources[number])
    finally:
        rig.backends[0].start()
    failed = time.monotonic()
    for number in range(20):  # up again, and still avoided
        for name in names[:5]:
            rig.ask(_case(cases, name), f"/{number}", source=sources[number])
    time.sleep(max(0.0, failed + FAIL_WINDOW - time.monotonic()))  # the passing of fail_timeout is the input here
    seen = {rig.ask(_case(cases, "recovers")) for _ in range(30)}
    assert str(rig.backends[0].port) in seen
    assert rig.ask(_case(cases, "single")) == str(rig.backends[0].port)


def test_the_backup_tier(rig: Rig, cases: list[Case]) -> None:
    case = _case(cases, "spare")
    rig.backends[0].stop()
    rig.backends[1].stop()
    try:
        seen = [rig.ask(case) for _ in range(40)]
    finally:
        rig.backends[0].start()
        rig.backends[1].start()
    assert set(seen[5:]) == {str(rig.backends[4].port), str(rig.backends[5].port)}


def test_enough_was_compared(rig: Rig) -> None:
    assert rig.compared > 5000

"""Simulated apiservers: a shared store, as etcd is, and masters with a cache each that runs behind it."""

from __future__ import annotations

import re
from collections import Counter

from lbproxy.core.health import SHUTDOWN, CheckResult, Verdict
from tests.simulation.messages import Head, Part, Reader, chunk
from tests.simulation.network import Path, SimSocket, World

_VERSION = re.compile(r"resourceVersion=(\d+)")
_TIMEOUT = re.compile(r"timeoutSeconds=(\d+)")
GONE = b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":410}}\n'
SLOW = 2.0  # seconds that a slow master may take for each thing that it does
GOING = (
    b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"apiserver is shutting down",'
    b'"reason":"ServiceUnavailable","code":503}\n\n'
)


class Store:
    """What was written, once for all masters. The n-th write has version FIRST + n."""

    FIRST = 100

    def __init__(self) -> None:
        self.log: list[str] = []
        self.times: list[float] = []
        self.executed: Counter[str] = Counter()
        self.lists: set[bytes] = set()  # every body that a master has sent
        self.expired = 0  # answers that said 410
        self.etcd = True  # the masters' checks of it pass

    @property
    def version(self) -> int:
        return self.FIRST + len(self.log)

    def written(self, version: int, otherwise: float) -> float:
        """When a version was written, if it was."""
        index = version - self.FIRST - 1
        return self.times[index] if 0 <= index < len(self.times) else otherwise

    def event(self, version: int) -> bytes:
        return event("ADDED", self.log[version - self.FIRST - 1], version)

    def list(self, version: int) -> bytes:
        names = ",".join(f'"{name}"' for name in self.log[max(0, version - self.FIRST - 20) : version - self.FIRST])
        body = f'{{"kind":"ConfigMapList","metadata":{{"resourceVersion":"{version}"}},"items":[{names}]}}'.encode()
        self.lists.add(body)
        return body


def event(kind: str, name: str, version: int) -> bytes:
    return (
        f'{{"type":"{kind}","object":{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}",'
        f'"namespace":"default","resourceVersion":"{version}"}}}}}}\n'
    ).encode()


class Master:
    """One apiserver: alive or not, frozen or not, shutting down or not."""

    def __init__(self, world: World, store: Store, number: int, masters: list[Master]) -> None:
        self.world = world
        self.store = store
        self.name = f"master{number}"
        self.path = Path()
        self.alive = True
        self.frozen = False
        self.draining = False
        self.slow = False
        self.oldest = store.version  # what is older is forgotten
        self.seen = store.version
        self.serving: dict[Serving, None] = {}
        self._masters = masters

    @property
    def works(self) -> bool:
        return self.alive and not self.frozen and not self.path.blocked

    def check(self) -> tuple[CheckResult, float]:
        """What a health check would see now, and the seconds that it takes."""
        if self.path.blocked:
            return CheckResult(Verdict.DOWN, "no answer to TCP connect"), 1.0
        if not self.alive:
            return CheckResult(Verdict.DOWN, "refused"), 0.001
        if self.frozen:
            return CheckResult(Verdict.DOWN, "no TLS"), 2.0
        if self.draining:
            return CheckResult(Verdict.NOT_READY, "not ready", 500, (SHUTDOWN,)), 0.01
        if not self.store.etcd:
            return CheckResult(Verdict.NOT_READY, "not ready", 500, ("etcd",)), 0.01
        if self.slow:
            return CheckResult(Verdict.UP, "ok", 200), self.world.random.uniform(0.0, SLOW)
        return CheckResult(Verdict.UP, "ok", 200), 0.01

    def accept(self, sock: SimSocket) -> None:
        serving = Serving(self, sock)
        self.serving[serving] = None
        sock.establish(serving)

    def write(self, name: str) -> int:
        """A mutation is executed."""
        self.store.executed[name] += 1
        self.store.log.append(name)
        self.store.times.append(self.world.now)
        for master in self._masters:
            self.world.after(self.world.latency() * 5, master.catch_up, self.store.version)
        return self.store.version

    def catch_up(self, version: int) -> None:
        if self.works and version > self.seen:
            self.seen = version
            for serving in list(self.serving):
                serving.push()

    # -- faults --------------------------------------------------------------------------------------------------

    def die(self, reset: bool) -> None:
        self.alive = self.frozen = self.draining = False
        for serving in list(self.serving):
            serving.end(reset=reset)

    def start(self) -> None:
        """It knows the present, and nothing of what was before."""
        self.alive = True
        self.seen = self.oldest = self.store.version

    def thaw(self) -> None:
        self.frozen = False
        self.catch_up(self.store.version)
        for serving in list(self.serving):
            serving.thaw()

    def heal_network(self) -> None:
        self.path.unblock()
        self.catch_up(self.store.version)


class Serving:
    """A connection at a master."""

    def __init__(self, master: Master, sock: SimSocket) -> None:
        self._master = master
        self._world = master.world
        self._sock = sock
        self._reader = Reader()
        self._head: Head | None = None
        self._body = b""
        self._waiting: list[bytes | bool] = []  # what came while frozen
        self._position = -1  # of a watch
        self._watches = 0
        self._open = True

    def on_data(self, data: bytes) -> None:
        if self._master.frozen:
            self._waiting.append(data)
            return
        for part, content in self._reader.feed(data):
            if isinstance(content, Head):
                self._head, self._body = content, b""
            elif part is Part.DATA:
                self._body += content
            elif self._head is not None:
                self._world.after(self._effort(), self._answer, self._head, self._body)

    def on_end(self, reset: bool) -> None:
        if self._master.frozen:
            self._waiting.append(reset)
        else:
            self.end(reset=False)

    def thaw(self) -> None:
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            if isinstance(item, bytes):
                self.on_data(item)
            else:
                self.on_end(item)

    def end(self, *, reset: bool) -> None:
        if self._open:
            self._open = False
            self._master.serving.pop(self, None)
            self._sock.hang_up(reset=reset)

    def push(self) -> None:
        """Send what a watch has not seen yet."""
        master, world = self._master, self._world
        if self._position < 0 or not self._open or not master.works:
            return
        new = range(self._position + 1, master.seen + 1)
        data = b"".join(map(master.store.event, new))
        self._position = max(self._position, master.seen)
        if world.chance(0.1):
            data += event("BOOKMARK", "", master.seen) if self._position == master.seen else b""
        if data and world.chance(0.1):
            cut = world.random.randint(1, len(data))
            self._send(b"".join(map(chunk, filter(None, (data[:cut], data[cut:])))))
        elif data:
            self._send(chunk(data))

    def _answer(self, head: Head, body: bytes) -> None:
        master, world = self._master, self._world
        if not self._open:
            return
        if master.frozen:
            world.after(0.5, self._answer, head, body)  # the request is in its memory
            return
        method, target, _ = head.first.split()
        world.tell(f"{master.name} <- {method} {target[-60:]} {body.decode()}")
        if master.draining and world.chance(0.5):
            if world.chance(0.5):
                self._respond("503 Service Unavailable", GOING, "Retry-After: 1\r\n", chunked=False)
                return
            self._respond("429 Too Many Requests", b"please try again later", "Connection: close\r\n")
            self.end(reset=False)
        elif method in ("POST", "DELETE"):
            version = master.write(body.decode() or target.rpartition("/")[2])
            world.after(self._effort(), self._done, method, version)
        elif "watch=true" in target:
            self._watch(target)
        else:
            self._respond("200 OK", master.store.list(master.seen))

    def _effort(self) -> float:
        """Seconds that something takes: now and then etcd is slow."""
        world = self._world
        if self._master.slow:
            return world.random.uniform(0.0, SLOW)
        return world.random.uniform(0.0, 1.0) if world.chance(0.1) else world.latency() * 2

    def _done(self, method: str, version: int) -> None:
        if self._open and not self._master.frozen:
            self._respond("201 Created" if method == "POST" else "200 OK", b"%d" % version)
        elif self._open:
            self._world.after(0.5, self._done, method, version)

    def _watch(self, target: str) -> None:
        master, world = self._master, self._world
        asked = _VERSION.search(target)
        timeout = _TIMEOUT.search(target)
        assert asked is not None
        assert timeout is not None
        version = int(asked[1])
        if version < master.oldest:
            master.store.expired += 1
            if world.chance(0.5):
                self._respond("410 Gone", b"{}")
                return
            self._begin_watch()
            self._send(chunk(GONE) + b"0\r\n\r\n")
            return
        self._begin_watch()
        self._position = version
        self._watches += 1
        self.push()
        world.after(float(timeout[1]), self._end_watch, self._watches)

    def _begin_watch(self) -> None:
        self._send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")

    def _end_watch(self, which: int) -> None:
        if not self._open or which != self._watches:
            return
        if not self._master.works:
            self._world.after(1.0, self._end_watch, which)
            return
        self._position = -1
        self._send(b"0\r\n\r\n")

    def _respond(self, status: str, body: bytes, fields: str = "", *, chunked: bool = True) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}"
        if chunked and self._world.chance(0.3) and body:
            cut = self._world.random.randint(1, len(body))
            pieces = b"".join(map(chunk, filter(None, (body[:cut], body[cut:]))))
            self._send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n")
        else:
            self._send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def _send(self, data: bytes) -> None:
        self._sock.transmit(data)

"""The control plane for chaos: masters that keep audit logs, behind doors that hide nothing.

A door is what makes a master of HTTP mode: it adds TLS and a client certificate to the bytes that it relays, and does
nothing else, so that a balancer in http mode meets an apiserver's own HTTP/1.1: its resets, half responses and last
words. (kubectl proxy, the door of the other tests, is an HTTP proxy with opinions: it turns the dying of its apiserver
into answers of its own.) A door listens as long as its apiserver does.

Each master has its own way to the one etcd (links.py), so that one of them alone can be far from it.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.balancer import until
from tests.cluster.chaos.namespace import Namespace
from tests.cluster.control_plane import ETCD, MASTERS, START_TIMEOUT, ControlPlane

AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules:
  - {level: None, users: ["system:apiserver"]}
  - {level: None, nonResourceURLs: ["*"]}
  - {level: Metadata}
"""
DOOR = """
defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  option clitcpka
frontend door
  bind {host}:8080
  default_backend master
backend master
  server it {host}:6443 ssl verify none crt {files}/admin.pem alpn http/1.1
"""
# On in every cluster since Kubernetes 1.21: a master knows of versions at which nothing happened to a resource. Without
# it the versions of idle resources, got from one master by LIST, are too old for a master that started later.
PROGRESS = "1s"
MANAGERS = ("kube-controller-manager", "kube-scheduler")
LINKS = ("127.0.0.21:23790", "127.0.0.22:23790", "127.0.0.23:23790")  # etcd, as each master finds it
ROOT = Path(__file__).parents[3]


class ChaosPlane(ControlPlane):
    def __init__(self, directory: Path, network: Namespace) -> None:
        super().__init__(directory, shutdown_delay=0)
        self.network = network

    def up(self) -> None:
        (self.directory / "audit-policy.yaml").write_text(AUDIT_POLICY)
        self._start_links()
        super().up()

    def _start_links(self) -> None:
        command = [sys.executable, "-m", "tests.cluster.chaos.links", ETCD.removeprefix("http://"), *LINKS]
        with (self.directory / "links.log").open("ab") as log:
            self.processes["links"] = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def down(self) -> None:
        if links := self.processes.get("links"):
            assert links.stdin is not None
            links.stdin.close()
        super().down()

    def etcd_for(self, number: int) -> str:
        return f"http://{LINKS[number]}"

    def make_certificates(self) -> None:
        super().make_certificates()
        both = [(self.directory / f"admin.{kind}").read_text() for kind in ("crt", "key")]
        (self.directory / "admin.pem").write_text("".join(both))

    def apiserver_command(self, number: int) -> list[str]:
        audit = [
            f"--audit-policy-file={self.directory}/audit-policy.yaml",
            f"--audit-log-path={self.audit_log(number)}",
        ]
        return [*super().apiserver_command(number), *audit, "--feature-gates=EfficientWatchResumption=true"]

    def etcd_command(self) -> list[str]:
        return [*super().etcd_command(), f"--experimental-watch-progress-notify-interval={PROGRESS}"]

    def audit_log(self, number: int) -> Path:
        return self.directory / f"audit{number}.log"

    def door_command(self, number: int) -> list[str]:
        config = self.directory / f"door{number}.cfg"
        config.write_text(DOOR.format(host=MASTERS[number], files=self.directory))
        return ["haproxy", "-db", "-f", str(config)]

    def ended(self) -> list[str]:
        """Without the managers: what becomes of them is counted, not an accident of the test."""
        return [name for name in super().ended() if not name.startswith(MANAGERS)]

    # -- managers ------------------------------------------------------------------------------------------------

    def ended_managers(self) -> list[str]:
        return [name for name in super().ended() if name.startswith(MANAGERS)]

    # -- what can happen to a master -----------------------------------------------------------------------------

    def bring_back(self, number: int) -> None:
        self.start_master(number)
        self.wait_ready(number)

    @contextmanager
    def frozen(self, number: int) -> Iterator[None]:
        """SIGSTOP to the apiserver and its door: their kernel still answers for them."""
        processes = [self.processes[f"{part}{number}"] for part in ("door", "apiserver")]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    @contextmanager
    def dark(self, number: int) -> Iterator[None]:
        """No packet reaches the master or leaves it. Its etcd still hears it."""
        self.network.darken(MASTERS[number])
        try:
            yield
        finally:
            self.network.lighten(MASTERS[number])

    def terminate_gracefully(self, number: int, grace: float) -> None:
        """SIGTERM as from a kubelet, and SIGKILL when `grace` seconds have not been enough."""
        apiserver = self.processes[f"apiserver{number}"]
        deadline = time.monotonic() + grace
        apiserver.send_signal(signal.SIGTERM)
        while not _refuses(MASTERS[number], 6443) and time.monotonic() < deadline:
            time.sleep(0.005)
        self.processes[f"door{number}"].send_signal(signal.SIGUSR1)  # HAProxy's soft stop: no new ones, old ones live
        with suppress(subprocess.TimeoutExpired):
            apiserver.wait(max(0.0, deadline - time.monotonic()))
        self.kill_master(number)

    @contextmanager
    def far_from_etcd(self, number: int, seconds: float) -> Iterator[None]:
        """A master that gets every answer of etcd so much later. Its process, its TLS and its caches are as ever."""
        self._tell_links(f"{number} {seconds}")
        try:
            yield
        finally:
            self._tell_links(f"{number} 0")

    def _tell_links(self, line: str) -> None:
        stdin = self.processes["links"].stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()

    # -- asking a master directly --------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """One request, past the balancer, to the first master that answers. 409 is an answer like others."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        context.load_cert_chain(self.directory / "admin.crt", self.directory / "admin.key")
        failures: list[str] = []
        for host in MASTERS:
            connection = http.client.HTTPSConnection(host, 6443, context=context, timeout=5)
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            try:
                connection.request(
                    method, path, json.dumps(body) if body else None, {"Content-Type": kind, "User-Agent": "harness"}
                )
                answer = connection.getresponse()
                data: dict[str, object] = json.loads(answer.read())
            except OSError as error:
                failures.append(f"{host}: {error}")
                continue
            finally:
                connection.close()
            if answer.status < 300 or answer.status in (404, 409):
                return data
            failures.append(f"{host}: {answer.status} {data.get('message')}")
        raise ConnectionError(f"{method} {path}: {failures}")

    def wait_all_ready(self) -> None:
        for number in range(len(MASTERS)):
            until(lambda number=number: self.ready(number), f"master {number} is ready", START_TIMEOUT)  # type: ignore[misc]


def _refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False

"""A real Kubernetes control plane on loopback: one etcd and three masters, to stand behind a balancer.

A master is a kube-apiserver at 127.0.0.1N:6443 and a plain-HTTP door to it (kubectl proxy) at 127.0.0.1N:8080, N from
1 to 3. `python -m tests.cluster.control_plane DIR` starts one by hand and keeps it until ^C; build.sh makes the
binaries.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import trustme

MASTERS = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
BALANCER_TLS = "127.0.0.1:16443"
BALANCER_HTTP = "127.0.0.1:18080"
ETCD = "http://127.0.0.1:23790"
ETCD_PEER = "http://127.0.0.1:23800"
START_TIMEOUT = 120.0  # seconds for three apiservers on two cores
SHUTDOWN_DELAY = 5  # seconds between a SIGTERM and the closed listener of an apiserver
GRACE = 12.0  # seconds from a SIGTERM to the SIGKILL (a kubelet: 30)


def binaries() -> Path:
    """Where build.sh puts what it builds."""
    return Path(os.environ.get("LBPROXY_K8S_BIN", "~/.cache/lbproxy/k8s")).expanduser()


class ControlPlane:
    """The processes, by name, and the files that they need."""

    def __init__(self, directory: Path, *, shutdown_delay: int = SHUTDOWN_DELAY) -> None:
        self.directory = directory
        self.shutdown_delay = shutdown_delay
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    # -- files ---------------------------------------------------------------------------------------------------

    def make_certificates(self) -> None:
        """A CA, and a certificate for each who needs a name."""
        ca = trustme.CA()
        ca.cert_pem.write_to_path(self.directory / "ca.crt")
        hosts = (*MASTERS, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes")
        self._write(ca.issue_cert(*hosts, common_name="kube-apiserver"), "server")
        self._write(ca.issue_cert("admin.local", common_name="admin", organization_name="system:masters"), "admin")
        for name in ("kube-controller-manager", "kube-scheduler"):
            self._write(ca.issue_cert(f"{name}.local", common_name=f"system:{name}"), name)
        self._write(ca.issue_cert("service-accounts.local"), "service-accounts")

    def _write(self, cert: trustme.LeafCert, name: str) -> None:
        cert.private_key_pem.write_to_path(self.directory / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(self.directory / f"{name}.crt")

    def kubeconfig(self, user: str, server: str) -> Path:
        """A kubeconfig for a user at a server's URL."""
        path = self.directory / f"{user}@{server.replace('://', '-').replace(':', '-')}.kubeconfig"
        cluster = {"server": server}
        if server.startswith("https"):
            cluster["certificate-authority"] = str(self.directory / "ca.crt")
        credentials = {
            "client-certificate": str(self.directory / f"{user}.crt"),
            "client-key": str(self.directory / f"{user}.key"),
        }
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "it",
                    "clusters": [{"name": "it", "cluster": cluster}],
                    "users": [{"name": "it", "user": credentials}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                }
            )
        )
        return path

    # -- processes -----------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Start etcd and three masters, and wait until all are ready. Raises TimeoutError with where to look."""
        self.make_certificates()
        self.start_etcd()
        for number in range(3):
            self.start_master(number)
        for number in range(3):
            self.wait_ready(number)

    def start_etcd(self) -> None:
        """Start the one etcd, on what it has stored before."""
        self._start("etcd", self.etcd_command())

    def etcd_command(self) -> list[str]:
        return [
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--initial-advertise-peer-urls={ETCD_PEER}",
            f"--initial-cluster=default={ETCD_PEER}",
        ]

    def etcd_for(self, _number: int) -> str:
        """Where a master finds etcd."""
        return ETCD

    def start_master(self, number: int) -> None:
        """Start an apiserver and its door."""
        self._start(f"apiserver{number}", self.apiserver_command(number))
        self._start(f"door{number}", self.door_command(number))

    def apiserver_command(self, number: int) -> list[str]:
        host, files = MASTERS[number], self.directory
        return [
            str(binaries() / "kube-apiserver"),
            f"--etcd-servers={self.etcd_for(number)}",
            f"--bind-address={host}",
            f"--advertise-address={host}",
            "--secure-port=6443",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files}/service-accounts.key",
            f"--service-account-signing-key-file={files}/service-accounts.key",
            f"--client-ca-file={files}/ca.crt",
            f"--tls-cert-file={files}/server.crt",
            f"--tls-private-key-file={files}/server.key",
            "--authorization-mode=RBAC",
            f"--shutdown-delay-duration={self.shutdown_delay}s",
        ]

    def door_command(self, number: int) -> list[str]:
        host = MASTERS[number]
        door = ["kubectl", f"--kubeconfig={self.kubeconfig('admin', f'https://{host}:6443')}", "proxy"]
        return [*door, f"--address={host}", "--port=8080", "--accept-hosts=.*", "--disable-filter=true"]

    def start_managers(self, copies: int = 2, server: str = f"https://{BALANCER_TLS}") -> None:
        """Controller-managers and schedulers that elect a leader, through the balancer."""
        for copy in range(copies):
            for name, port in (("kube-controller-manager", 10257), ("kube-scheduler", 10259)):
                arguments = [
                    str(binaries() / name),
                    f"--kubeconfig={self.kubeconfig(name, server)}",
                    "--leader-elect=true",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={port + 100 * copy}",
                    "--port=0",
                ]
                if name == "kube-controller-manager":
                    arguments += [
                        f"--service-account-private-key-file={self.directory}/service-accounts.key",
                        f"--root-ca-file={self.directory}/ca.crt",
                        "--use-service-account-credentials=true",
                    ]
                self._start(f"{name}{copy}", arguments)

    def stop_managers(self) -> None:
        """End them, so that nobody minds what happens to the masters."""
        for name in [name for name in self.processes if name.startswith(("kube-controller", "kube-scheduler"))]:
            self._kill(name)

    def kill_master(self, number: int) -> None:
        """As when the machine loses power, but with its kernel still there to say that nobody listens."""
        self._kill(f"door{number}")
        self._kill(f"apiserver{number}")

    def signal_master(self, number: int, what: signal.Signals) -> None:
        """To the apiserver alone: SIGTERM as a kubelet does it, SIGSTOP and SIGCONT for one that hangs."""
        self.processes[f"apiserver{number}"].send_signal(what)

    def wait_stopped(self, number: int) -> None:
        """What a kubelet does after its SIGTERM: wait, and kill. An apiserver would wait for its watches for 60 s."""
        with suppress(subprocess.TimeoutExpired):
            self.processes[f"apiserver{number}"].wait(GRACE)
        self.kill_master(number)

    def ended(self) -> list[str]:
        """Who has ended without having been told to."""
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def ready(self, number: int) -> bool:
        """Whether a master answers its readiness check, and its door works."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        context.load_cert_chain(self.directory / "admin.crt", self.directory / "admin.key")
        try:
            for url in (f"https://{MASTERS[number]}:6443/readyz", f"http://{MASTERS[number]}:8080/readyz"):
                with urllib.request.urlopen(url, timeout=2, context=context) as answer:
                    if answer.status != 200:
                        return False
        except (OSError, urllib.error.URLError):
            return False
        return True

    def wait_ready(self, number: int) -> None:
        """Wait for a master. Raises TimeoutError or ChildProcessError, with where to look."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self.ready(number):
            if ended := self.ended():
                raise ChildProcessError(f"{ended[0]} has ended: see {self.directory}/{ended[0]}.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"master {number} is not ready: see {self.directory}/apiserver{number}.log")
            time.sleep(0.2)

    def down(self) -> None:
        """Stop everything that was started."""
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.kill()
            process.wait()
        self.processes.clear()

    def _kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def _start(self, name: str, command: list[str]) -> None:
        with open(self.directory / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )


def main(argv: list[str]) -> int:
    """Run a control plane by hand."""
    if len(argv) != 2:
        print("usage: python -m tests.cluster.control_plane DIR", file=sys.stderr)
        return 2
    plane = ControlPlane(Path(argv[1]).absolute())
    try:
        plane.up()
        print(f"ready; for lbproxy at {BALANCER_TLS}: {plane.kubeconfig('admin', f'https://{BALANCER_TLS}')}")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except KeyboardInterrupt:
        pass
    finally:
        plane.down()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

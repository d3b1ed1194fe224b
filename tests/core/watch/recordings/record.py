"""Records what a real kube-apiserver answers to watches: `python -m tests.core.watch.recordings.record`.

Starts an etcd and an apiserver of its own (the binaries that tests/cluster/build.sh makes), opens all watches at the
same version, makes the same changes under all of them, and writes each response as it came, head and chunks, to
NAME.http. expected.json says which events (type and resourceVersion) are in each, read from those in JSON.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.control_plane import ControlPlane, binaries

HERE = Path(__file__).parent
SECONDS = 5  # of each watch; 2 s before its end comes a bookmark
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
JSON = "application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
PROTOBUF = "application/vnd.kubernetes.protobuf"
PARTIAL_PROTOBUF = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
TRAP = '{"metadata":{"resourceVersion":"99999999","uid":"x"},"items":["}{][\\"\n"]}'
META_TRAP = {"resourceVersion": "88888888", "uid": "0", "trap": TRAP}


@dataclass(frozen=True)
class Watch:
    """`version` replaces the one at which all begin; "" leaves it out."""

    name: str
    path: str
    accept: str
    version: str | None = None
    more: str = "&allowWatchBookmarks=true"

    def target(self, now: str) -> str:
        version = now if self.version is None else self.version
        start = f"&resourceVersion={version}" if version else ""
        return f"{self.path}?watch=true&timeoutSeconds={SECONDS}{start}{self.more}"


WATCHES = [
    Watch("json", CONFIGMAPS, JSON),
    Watch("json-unset", CONFIGMAPS, JSON, ""),
    Watch("json-zero", CONFIGMAPS, JSON, "0"),
    Watch("json-pretty", CONFIGMAPS, JSON, None, "&allowWatchBookmarks=true&pretty=true"),
    Watch("json-selected", CONFIGMAPS, JSON, None, "&labelSelector=colour%3Dred"),
    Watch("json-one", CONFIGMAPS, JSON, None, "&fieldSelector=metadata.name%3Da"),
    Watch("json-old-form", CONFIGMAPS.replace("/v1/", "/v1/watch/"), JSON),
    Watch("json-expired", CONFIGMAPS, JSON, "1"),
    Watch("table", CONFIGMAPS, TABLE),
    Watch("table-none", CONFIGMAPS, TABLE, None, "&allowWatchBookmarks=true&includeObject=None"),
    Watch("table-unset", CONFIGMAPS, TABLE, ""),
    Watch("partial", CONFIGMAPS, PARTIAL),
    Watch("protobuf", CONFIGMAPS, PROTOBUF),
    Watch("protobuf-unset", CONFIGMAPS, PROTOBUF, ""),
    Watch("protobuf-zero", CONFIGMAPS, PROTOBUF, "0"),
    Watch("protobuf-selected", CONFIGMAPS, PROTOBUF, None, "&labelSelector=colour%3Dred"),
    Watch("protobuf-expired", CONFIGMAPS, PROTOBUF, "1"),
    Watch("protobuf-partial", CONFIGMAPS, PARTIAL_PROTOBUF),
]
# Whose events are the same, where they cannot be read without what is to be tested.
TWINS = {
    "table-none": "json",
    "protobuf": "json",
    "protobuf-unset": "json-unset",
    "protobuf-zero": "json-zero",
    "protobuf-selected": "json-selected",
    "protobuf-expired": "json-expired",
    "protobuf-partial": "json",
}


class Server:
    def __init__(self, plane: ControlPlane, port: int) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=str(plane.directory / "ca.crt"))
        self.context.load_cert_chain(plane.directory / "admin.crt", plane.directory / "admin.key")

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=10)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": kind})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {data!r}")
        parsed: dict[str, object] = json.loads(data)
        return parsed

    def record(self, target: str, accept: str) -> bytes:
        """A response as it came, up to the last chunk or an error."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as plain,
            self.context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
            sock.sendall(head.encode())
            received = b""
            while data := sock.recv(65536):
                received += data
        return received


def start(plane: ControlPlane) -> tuple[Server, str]:
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            ports.append(sock.getsockname()[1])
    files = plane.directory
    plane.make_certificates()
    etcd, peer = (f"http://127.0.0.1:{port}" for port in ports[:2])
    plane._start(
        "etcd",
        [
            "etcd",
            f"--data-dir={files / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ],
    )
    start_apiserver(plane, ports[2], etcd)
    return Server(plane, ports[2]), etcd


def start_apiserver(plane: ControlPlane, port: int, etcd: str) -> None:
    files = plane.directory
    plane._start(
        "apiserver",
        [
            str(binaries() / "kube-apiserver"),
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.11",
            f"--secure-port={port}",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files}/service-accounts.key",
            f"--service-account-signing-key-file={files}/service-accounts.key",
            f"--client-ca-file={files}/ca.crt",
            f"--tls-cert-file={files}/server.crt",
            f"--tls-private-key-file={files}/server.key",
            "--authorization-mode=RBAC",
        ],
    )


def wait(server: Server, method: str, path: str, body: object = None) -> dict[str, object]:
    """Try until it works. Raises RuntimeError or OSError when it does not in 60 s."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return server.call(method, path, body)
        except (RuntimeError, OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def configmap(name: str, **labels: str) -> dict[str, object]:
    metadata = {"name": name, "labels": {**labels, "resourceVersion": "77777777"}, "annotations": META_TRAP}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": META_TRAP}


def change(server: Server) -> None:
    """What all watches see, one after the other."""
    red = {"metadata": {"labels": {"colour": "red"}}}
    blue = {"metadata": {"labels": {"colour": "blue"}}}
    server.call("PATCH", f"{CONFIGMAPS}/c", red)
    server.call("POST", CONFIGMAPS, configmap("b"))
    server.call("PATCH", f"{CONFIGMAPS}/a", red)
    server.call("PATCH", f"{CONFIGMAPS}/a", blue)
    server.call("DELETE", f"{CONFIGMAPS}/c")


def events(response: bytes) -> list[list[str | None]]:
    body = response.partition(b"\r\n\r\n")[2]
    data = b""
    while (line := body.partition(b"\r\n")[0]) != b"0":
        size = int(line, 16)
        data += body[len(line) + 2 : len(line) + 2 + size]
        body = body[len(line) + 4 + size :]
    found: list[list[str | None]] = []
    for event in map(json.loads, data.splitlines()):
        found.append([event["type"], event["object"]["metadata"].get("resourceVersion")])
    return found


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="record-"))
    plane = ControlPlane(directory)
    try:
        server, etcd = start(plane)
        wait(server, "GET", "/api/v1/namespaces/default")
        for name in "gfedca":  # versions against the order of names
            server.call("POST", CONFIGMAPS, configmap(name))
        # A new watch cache knows nothing of what was before it: old versions have expired.
        plane._kill("apiserver")
        start_apiserver(plane, server.port, etcd)
        wait(server, "GET", f"{CONFIGMAPS}?resourceVersion=0")
        metadata = server.call("GET", CONFIGMAPS)["metadata"]
        assert isinstance(metadata, dict)
        now = metadata["resourceVersion"]
        answers: dict[str, bytes] = {}

        def record(watch: Watch) -> None:
            answers[watch.name] = server.record(watch.target(now), watch.accept)

        threads = [threading.Thread(target=record, args=(watch,)) for watch in WATCHES]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        change(server)
        for thread in threads:
            thread.join()
    finally:
        plane.down()
        shutil.rmtree(directory)
    for name, answer in answers.items():
        (HERE / f"{name}.http").write_bytes(answer)
    expected = {
        watch.name: {
            "target": watch.target(now),
            "events": events(answers[TWINS.get(watch.name, watch.name)]),
        }
        for watch in WATCHES
    }
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in expected.items())
    (HERE / "expected.json").write_text("{\n" + lines + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

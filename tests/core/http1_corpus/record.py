"""Makes the corpus: `python -m tests.core.http1_corpus.record`, with the real cluster built (make test-cluster).

A relay stands in front of a master's plain-HTTP door and notes every head that passes, byte for byte, while kubectl,
client-go's controllers and the Python clients work through it. Heads of one shape (method, header names, Accept) are
kept twice at most. The Python clients are those of tests/cluster/chaos, in an environment of their own.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.cluster.control_plane import ControlPlane

CORPUS = Path(__file__).parent
CLIENTS = Path("~/.cache/lbproxy/clients/bin/python").expanduser()
OLD_KUBECTL = Path("~/.cache/lbproxy/clients/kubectl-1.20/usr/bin/kubectl").expanduser()
DOOR = ("127.0.0.11", 8080)
PORT = 18099
SERVER = f"http://127.0.0.1:{PORT}"
EACH = 2  # heads kept of one shape
MANIFEST = """{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 1,
"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
"spec": {"containers": [{"name": "c", "image": "x"}]}}}}"""
KUBECTL = [
    "version", "api-resources", "get namespaces", "get pods -A -o wide", "get --raw /readyz?verbose",
    "get nodes -o yaml",
    "create configmap settings --from-literal=a=b", "get configmap settings -o json", "apply -f -", "apply -f -",
    "scale deployment web --replicas=2", "set image deployment/web c=y", "annotate configmap settings note=1",
    "patch configmap settings -p {\"data\":{\"a\":\"c\"}}", "auth can-i create pods", "explain pods",
    "rollout status deployment/web --timeout=2s", "describe deployment web", "get events", "logs deployment/web",
    "exec deployment/web -- true", "port-forward deployment/web 18098:80", "cp web:/x /tmp/x", "top nodes",
    "get configmaps --watch --request-timeout=2s", "delete configmap settings", "delete deployment web --wait=false",
    "get missing.example.com", "get pod missing", "apply --server-side -f -", "diff -f -", "get secrets --chunk-size=1",
]  # fmt: skip
PYTHON = {
    "kubernetes": """
from kubernetes import client, config, watch
config.load_kube_config(CONFIG)
api = client.CoreV1Api()
api.list_namespace(limit=5)
body = {"metadata": {"name": "from-kubernetes"}, "data": {"a": "b"}}
api.create_namespaced_config_map("default", body)
api.patch_namespaced_config_map("from-kubernetes", "default", {"data": {"a": "c"}})
for _ in watch.Watch().stream(api.list_namespaced_config_map, "default", timeout_seconds=1): pass
api.delete_namespaced_config_map("from-kubernetes", "default")
client.AppsV1Api().list_deployment_for_all_namespaces()
client.VersionApi().get_code()
""",
    "kr8s": """
import kr8s
from kr8s.objects import ConfigMap
api = kr8s.api(kubeconfig=CONFIG)
list(api.get("namespaces"))
one = ConfigMap({"metadata": {"name": "from-kr8s", "namespace": "default"}, "data": {"a": "b"}}, api=api)
one.create(); one.patch({"data": {"a": "c"}}); one.refresh()
for _ in api.watch("configmaps", namespace="default"): break
one.delete()
""",
    "lightkube": """
from lightkube import Client, KubeConfig
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Namespace
client = Client(config=KubeConfig.from_file(CONFIG), namespace="default")
list(client.list(Namespace, chunk_size=2))
client.create(ConfigMap(metadata=ObjectMeta(name="from-lightkube"), data={"a": "b"}))
client.patch(ConfigMap, "from-lightkube", {"data": {"a": "c"}})
for _ in client.watch(ConfigMap, server_timeout=1): break
client.delete(ConfigMap, "from-lightkube")
""",
    "httpx": """
import httpx
with httpx.Client(base_url=SERVER) as client:
    for target in ("/version", "/api/v1/namespaces?limit=1", "/apis"): client.get(target)
    client.post("/api/v1/namespaces/default/configmaps", json={"metadata": {"name": "from-httpx"}})
    client.request("DELETE", "/api/v1/namespaces/default/configmaps/from-httpx", json={})
    client.post("/api/v1/namespaces/default/configmaps", content=iter([b"{", b"}"]))
""",
    "urllib": """
import urllib.request
urllib.request.urlopen(SERVER + "/api/v1/namespaces").read()
urllib.request.urlopen(urllib.request.Request(SERVER + "/version", headers={"Accept": "*/*"})).read()
""",
}
CURL = ["/version", "-I /version", "-d {} -H Content-Type:application/json /api/v1/namespaces", "-0 /api/v1/pods",
        "--max-time 1 /api/v1/pods?watch=true", "-X OPTIONS /api", "-T- /api/v1/x", "--compressed /openapi/v2",
        "-H Connection:close /healthz"]  # fmt: skip


class Recorder:
    """The relay. `client` is who works through it now."""

    def __init__(self) -> None:
        self.client = ""
        self.heads: dict[str, dict[tuple[bytes, ...], list[bytes]]] = {}
        self._listening = socket.create_server(("127.0.0.1", PORT), backlog=100)
        threading.Thread(target=self._accept, daemon=True).start()

    def save(self) -> None:
        for name, shapes in self.heads.items():
            (CORPUS / f"{name}.http").write_bytes(b"".join(head for heads in shapes.values() for head in heads))

    def _accept(self) -> None:
        while True:
            sock, _address = self._listening.accept()
            door = socket.create_connection(DOOR)
            for name, source, target in (("requests", sock, door), ("responses", door, sock)):
                threading.Thread(target=self._pump, args=(f"{self.client}-{name}", source, target), daemon=True).start()

    def _pump(self, name: str, source: socket.socket, target: socket.socket) -> None:
        held, left = b"", 0  # bytes of a body still to come; -1: chunks, -2: whatever comes
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
                held += data
                while held and left != -2:
                    if left > 0:
                        taken = min(left, len(held))
                        held, left = held[taken:], left - taken
                    elif left == -1:
                        end = held.find(b"0\r\n\r\n")
                        if end < 0:
                            held = held[-4:]
                            break
                        held, left = held[end + 5 :], 0
                    elif b"\r\n\r\n" in held:
                        head, _, held = held.partition(b"\r\n\r\n")
                        left = self._note(name, head + b"\r\n\r\n")
                    else:
                        break
            target.shutdown(socket.SHUT_WR)

    def _note(self, name: str, head: bytes) -> int:
        lines = head.split(b"\r\n")
        start = re.sub(rb"[0-9a-f-]{8,}|\d{4,}", b"N", lines[0].partition(b"?")[0]).split()
        kind = start[0], start[1] if head.startswith(b"HTTP") else b"watch" if b"watch=" in lines[0] else b""
        shape = (*kind, *(line if line.startswith(b"Accept:") else line.partition(b":")[0] for line in lines[1:]))
        kept = self.heads.setdefault(name, {}).setdefault(shape, [])
        if len(kept) < EACH:
            kept.append(head)
        if b" 101 " in lines[0] or re.search(rb"(?im)^Upgrade:", head):
            return -2
        if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
            return -1
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return int(length[1]) if length else 0


def main() -> None:
    """Start the cluster, work through the relay, write the files."""
    with tempfile.TemporaryDirectory() as directory:
        cluster = ControlPlane(Path(directory))
        try:
            cluster.up()
            recorder = Recorder()
            config = str(cluster.kubeconfig("admin", SERVER))
            recorder.client = "client-go"
            cluster.start_managers(1, SERVER)
            time.sleep(20)
            cluster.stop_managers()
            for name, program in (("kubectl", "kubectl"), ("kubectl-1.20", str(OLD_KUBECTL))):
                recorder.client = name
                for words in KUBECTL:
                    _run([program, f"--kubeconfig={config}", *words.split(" ")], MANIFEST)
            recorder.client = "curl"
            for words in CURL:
                *options, target = words.split(" ")
                _run(["curl", "-s", *options, SERVER + target], "{}")
            for name, program in PYTHON.items():
                recorder.client = name
                _run([str(CLIENTS), "-c", f"CONFIG, SERVER = {config!r}, {SERVER!r}\n{program}"], "")
            recorder.save()
        finally:
            cluster.down()


def _run(command: list[str], text: str) -> None:
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=8, check=False)
        print(" ".join(command)[-60:].replace("\n", " "), "->", done.returncode, done.stderr[-100:], file=sys.stderr)


if __name__ == "__main__":
    main()

"""A day's work with kubectl, through the tcp door with client certificates and through the http door."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cluster.balancer import Balancer
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.cluster.leaders import DEPLOYMENT

pytestmark = pytest.mark.cluster

MIB = 1 << 20


def test_everyday_work(kubectl: Kubectl) -> None:
    assert "kube-system" in kubectl("get", "namespaces")
    assert "configmaps" in kubectl("api-resources")
    assert json.loads(kubectl("get", "--raw", "/version"))["minor"].startswith("20")
    kubectl("create", "configmap", "one", "--from-literal=a=b")
    kubectl("annotate", "configmap", "one", "note=x y/z%20ä")
    kubectl("label", "configmap", "one", "color=blue")
    assert kubectl("get", "configmap", "-l", "color=blue", "-o", "name").split() == ["configmap/one"]
    manifest = kubectl("get", "configmap", "one", "-o", "json")
    assert json.loads(manifest)["metadata"]["annotations"]["note"] == "x y/z%20ä"
    kubectl("replace", "-f", "-", stdin=manifest)
    kubectl("patch", "configmap", "one", "-p", '{"data":{"a":"c"}}')
    assert kubectl("get", "configmap", "one", "-o", "jsonpath={.data.a}") == "c"
    kubectl("delete", "configmap", "one")
    gone = kubectl.attempt("get", "configmap", "one")
    assert "(NotFound)" in gone.stderr  # the apiserver's own Status, not an error of the way


def test_apply_and_wait(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=json.dumps(DEPLOYMENT))
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=json.dumps(DEPLOYMENT))
    with subprocess.Popen(kubectl.command("wait", "--for=delete", "deployment/web", "--timeout=20s")) as waiting:
        kubectl("delete", "deployment", "web")
        assert waiting.wait(20) == 0


def test_the_client_certificate_reaches_the_apiserver(cluster: ControlPlane, balancer: Balancer) -> None:
    admin = Kubectl.through("tcp", cluster)
    assert admin("auth", "can-i", "*", "*").strip() == "yes"
    scheduler = Kubectl.through("tcp", cluster, user="kube-scheduler")
    refused = scheduler.attempt("delete", "namespace", "default")
    assert 'User "system:kube-scheduler" cannot delete' in refused.stderr


def test_large_objects(kubectl: Kubectl, tmp_path: Path) -> None:
    """Four objects as large as they may be, and a list of 3.6 MiB."""
    blob = tmp_path / "blob"
    blob.write_text("".join(f"{number:09}\n" for number in range(90_000)))  # a ConfigMap may hold 1 MiB
    for number in range(4):
        kubectl("create", "configmap", f"large-{number}", f"--from-file={blob}")
    listed = json.loads(kubectl("get", "configmap", "-o", "json"))["items"]
    large = [one for one in listed if one["metadata"]["name"].startswith("large-")]
    assert [one["data"]["blob"] for one in large] == [blob.read_text()] * 4


def test_a_request_of_almost_three_mebibytes(kubectl: Kubectl, tmp_path: Path) -> None:
    """As much as the apiserver reads. It is the one that refuses it, and its words come back."""
    manifest = tmp_path / "huge.json"
    huge = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "huge"},
        "data": {"a": "x" * (29 * MIB // 10)},
    }
    manifest.write_text(json.dumps(huge))
    refused = kubectl.attempt("create", "-f", str(manifest))
    assert refused.returncode == 1
    assert f"must have at most {MIB} bytes" in refused.stderr


def test_a_watch_shows_each_change_when_it_happens(kubectl: Kubectl) -> None:
    """One change is made only after the one before has been shown."""
    columns = "-o=custom-columns=:metadata.name,:data.n"
    command = kubectl.command("get", "configmap", "-w", "--no-headers", "--field-selector=metadata.name=it", columns)
    kubectl("create", "configmap", "it", "--from-literal=n=0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            assert watch.stdout.readline().split() == ["it", "0"]
            for number in range(1, 6):
                kubectl("patch", "configmap", "it", "-p", json.dumps({"data": {"n": str(number)}}))
                assert watch.stdout.readline().split() == ["it", str(number)]
            assert watch.poll() is None
        finally:
            watch.kill()

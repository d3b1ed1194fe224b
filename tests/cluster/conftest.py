from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.balancer import Balancer
from tests.cluster.control_plane import ControlPlane, binaries
from tests.cluster.kubectl import DOORS, Kubectl
from tests.programs import require


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Etcd and three masters, for all tests of the session."""
    for program in ("kubectl", "etcd"):
        require(program)
    if not (binaries() / "kube-apiserver").exists():
        pytest.fail(f"no Kubernetes in {binaries()}: run tests/cluster/build.sh (make test-cluster does)")
    plane = ControlPlane(tmp_path_factory.mktemp("cluster"))
    try:
        plane.up()
        yield plane
    finally:
        plane.down()


@pytest.fixture(scope="session")
def balancer(cluster: ControlPlane) -> Iterator[Balancer]:
    """The real process. Whatever the tests did to its masters, it must still be well at the end."""
    running = Balancer(cluster.directory)
    try:
        running.wait_ready()
        yield running
        assert running.process.poll() is None, running.log.read_text()
        assert running.workers()
        assert running.failures() == []
    finally:
        running.stop()


@pytest.fixture(params=list(DOORS))
def kubectl(request: pytest.FixtureRequest, cluster: ControlPlane, balancer: Balancer) -> Kubectl:
    """kubectl through each door, in a namespace of its own."""
    namespace = f"{request.node.originalname}-{request.param}".replace("_", "-")
    made = Kubectl.through(request.param, cluster, namespace=namespace)
    made("create", "namespace", namespace)
    return made

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.chaos.arena import Arena, arena
from tests.cluster.chaos.contenders import contenders
from tests.cluster.control_plane import binaries
from tests.programs import require


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A cluster of its own in a network of its own, behind what the module calls its CONTENDER."""
    for program in ("etcd", "haproxy", "nft"):
        require(program)
    if os.geteuid():
        pytest.skip("a network namespace needs root")
    if not (binaries() / "kube-apiserver").exists():
        pytest.fail(f"no Kubernetes in {binaries()}: run tests/cluster/build.sh (make test-cluster does)")
    with arena(contenders()[request.module.CONTENDER], tmp_path_factory.mktemp("chaos")) as made:
        yield made

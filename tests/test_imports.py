"""Who may import whom. The direction is what keeps the core testable and the workers small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lbproxy"

# part of lbproxy -> the parts it may import, besides itself
ALLOWED = {
    "core": set(),
    "dataplane": {"core"},
    "admin": {"core"},
    "control": {"admin", "core"},
    "demo": {"control", "core"},
    "cli": {"admin", "control", "demo"},
    "__main__": {"cli"},
    "__init__": set(),
}  # type: dict[str, set[str]]

# What the core must do without: event loops, sockets, clocks, chance, logs, files.
IMPURE = {
    "trio", "asyncio", "threading", "multiprocessing", "signal", "subprocess", "select", "selectors",
    "socket", "ssl", "http", "urllib", "time", "datetime", "random", "secrets", "logging",
    "yaml", "pydantic", "prometheus_client", "os", "pathlib", "sys",
}  # fmt: skip

# What a worker must do without, so that it is small and starts quickly.
HEAVY = {"pydantic", "yaml", "prometheus_client", "rich", "argparse"}

FILES = sorted(PACKAGE.rglob("*.py"))


def _imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, types only or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            if node.module == "lbproxy":
                yield from (f"lbproxy.{alias.name}" for alias in node.names)


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_part_is_known() -> None:
    assert {_part(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_direction(path: Path) -> None:
    part = _part(path)
    for module in _imported(path):
        steps = module.split(".")
        if steps[0] != "lbproxy" or steps[1:] in ([], ["__version__"]):
            continue
        assert steps[1] == part or steps[1] in ALLOWED[part], f"{part} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: path.stem)
def test_core_is_pure(path: Path) -> None:
    impure = {module for module in _imported(path) if module.partition(".")[0] in IMPURE}
    assert not impure


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: path.stem)
def test_core_is_synchronous_and_opens_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        assert not (isinstance(node, ast.Name) and node.id in ("open", "print", "input", "breakpoint"))


def test_worker_loads_nothing_heavy() -> None:
    """Really loaded, by whatever way: a worker process has only what it needs."""
    modules = ", ".join(
        ".".join(("lbproxy", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in sorted((PACKAGE / "dataplane").glob("*.py"))
        if path.stem != "__init__"
    )
    loaded = _loaded_by(modules)
    assert "lbproxy.dataplane.worker" in loaded
    assert not HEAVY & loaded
    assert not {module for module in loaded if module.startswith(("lbproxy.control", "lbproxy.admin", "lbproxy.demo"))}


def test_the_control_plane_does_without_what_reads_lb_yaml() -> None:
    """config_process.py: that is done by a process that ends."""
    loaded = _loaded_by("lbproxy.control.start, lbproxy.control.config_process")
    assert not {"pydantic", "yaml", "rich", "lbproxy.control.configfile"} & loaded


def _loaded_by(modules: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())

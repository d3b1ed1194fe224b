"""conf/systemd: what systemd itself says of the unit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.programs import require

UNIT = Path(__file__).parents[1] / "conf" / "systemd" / "lbproxy.service"


def test_the_unit_is_understood(tmp_path: Path) -> None:
    unit = tmp_path / "lbproxy.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/lbproxy", sys.executable))
    done = subprocess.run(
        [require("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_socket_unit_is_understood(tmp_path: Path) -> None:
    (tmp_path / "lbproxy.service").write_text(UNIT.read_text().replace("/usr/local/bin/lbproxy", sys.executable))
    unit = tmp_path / "lbproxy.socket"
    unit.write_text(UNIT.with_suffix(".socket").read_text())
    done = subprocess.run(
        [require("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_confined() -> None:
    """systemd's own measure: 10 is not at all."""
    done = subprocess.run(
        [require("systemd-analyze"), "security", "--offline=true", str(UNIT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    level = re.search(r"Overall exposure level for lbproxy.service: ([0-9.]+)", done.stdout)
    assert level is not None
    assert float(level[1]) < 3

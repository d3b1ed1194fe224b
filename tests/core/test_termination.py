"""docs/termination-codes.md explains exactly the codes that there are."""

from __future__ import annotations

import re
from pathlib import Path

from lbproxy.core.termination import Termination

PAGE = Path(__file__).parents[2] / "docs" / "termination-codes.md"


def test_every_code_is_explained() -> None:
    explained = re.findall(r"^\| `([-A-Za-z]{2})`", PAGE.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(code.value for code in Termination)

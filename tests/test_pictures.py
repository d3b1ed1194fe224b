"""The pictures of the documents: those that are shown are there, those that are there are shown, and none is heavy."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 200 * 1024  # bytes: a repository keeps every version for ever


def test_pictures() -> None:
    shown = set()
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for mark in re.finditer(r'!\[[^\]]+\]\(([^)]+)\)|<img src="([^"]+)" alt="[^"]', document.read_text()):
            shown.add((document.parent / (mark[1] or mark[2])).resolve())
    there = {file.resolve() for kind in ("png", "svg") for file in (ROOT / "docs").glob(f"*.{kind}")}
    assert shown == there
    assert [file.name for file in there if file.stat().st_size > LARGEST] == []

"""The page's files: all of them are there, also in an installed package, and none asks for anything elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import trio

from lbproxy.admin.dashboard import files
from tests.admin.test_admin import address, ask, get, view

__all__ = ["address", "view"]  # fixtures

SOURCE = Path(__file__).parents[2] / "lbproxy" / "admin" / "dashboard"


def test_every_file_of_the_directory_is_served() -> None:
    names = {file.name for file in SOURCE.iterdir() if file.suffix in (".html", ".css", ".js", ".svg")}
    assert {path.rpartition("/")[2] or "index.html" for path in files()} == names
    assert {"index.html", "dashboard.css", "dashboard.js", "up.svg", "down.svg"} <= names


def test_whatever_a_file_names_is_one_of_ours() -> None:
    """Scripts, styles, icons, imports; and nothing has an address of its own."""
    known = files()
    for path, (_kind, body) in known.items():
        text = body.decode().replace('"http://www.w3.org/2000/svg"', "")
        assert not re.findall(r"https?:|//[a-z]+\.|url\(|data:|@import|innerHTML|insertAdjacent|eval\(|style=", text), (
            path
        )
        for name in re.findall(r'(?:from|src=|href=)\s*"(?:\./|dashboard/)([^"$#]+)"', text):
            assert f"/dashboard/{name}" in known, (path, name)


async def test_the_page_may_load_its_own_files_and_nothing_else(address: tuple[str, int]) -> None:
    with trio.fail_after(5):
        head, _, body = (await ask(address, get("/"))).partition(b"\r\n\r\n")
    assert b"text/html; charset=utf-8" in head
    policy = re.search(rb"Content-Security-Policy: (.*)\r\n", head)
    assert policy is not None
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy[1].decode().split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("frame-ancestors") == "'none'"
    assert rules.pop("form-action") == "'none'"
    assert set(rules.values()) == {"'self'"}
    assert b"<main>" in body

"""A page that stays open while its balancer is upgraded or restarted: it goes on by itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.browser import Page
from tests.e2e.dashboard import GONE, apiservers, browser, config, opened, page, row
from tests.e2e.process import PATIENCE, Lbproxy, lbproxy, wait_for
from tests.e2e.test_upgrade import copy, edit

__all__ = ["browser", "copy", "page"]  # fixtures


def shown_workers(page: Page) -> str:
    return page.text("#about").rpartition(" ")[2]


def test_an_upgrade_is_followed(page: Page, tmp_path: Path, copy: Path) -> None:
    """Without a reload of the page if the version is the same, with one if it is another."""
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends), copy) as running, opened(page, running):
        page.wait_text("All 2 backends get connections", "h1")
        before = shown_workers(page)
        page.js("globalThis.stayed = true")
        running.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: len(running.events("upgraded")) == 1)
        wait_for(lambda: shown_workers(page) not in ("", before))
        page.wait_text("live", "#live")
        assert page.text("h1") == "All 2 backends get connections"
        assert page.text("#banners") == ""
        assert page.js("stayed") is True
        page.wait_text(" listens on ", "#events")
        numbers = [one["number"] for one in json.loads(running.get("/overview")[1])["events"]]
        wait_for(lambda: page.js("document.querySelectorAll('#events li').length") == len(numbers))

        edit(copy, "__init__.py", r'^__version__ = ".*"', '__version__ = "99.0.0"')
        running.process.send_signal(signal.SIGUSR2)
        page.wait_text("lbproxy 99.0.0", "#about")
        assert page.js("typeof stayed") == "undefined"
        backends[0].die()
        wait_for(lambda: "down" in row(page, backends[0].address))
    allow_refusals(page)


def test_a_restart_is_followed(page: Page, tmp_path: Path) -> None:
    """What it was before is forgotten: the new process counts from 0."""
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        page.wait_text("All 2 backends get connections", "h1")
        page.js("globalThis.stayed = true")
        before = shown_workers(page)
        running.stop()
        page.wait_text(GONE, "h1", seconds=5.0)
        with running.log.open("ab") as output:
            command = [sys.executable, "-m", "lbproxy", "-c", str(tmp_path / "lb.yaml")]
            second = Lbproxy(subprocess.Popen(command, stdout=output, stderr=output), running.log, running.admin)
        try:
            page.wait_text("live", "#live", seconds=PATIENCE)
            page.wait_text("All 2 backends get connections", "h1")
            assert shown_workers(page) != before
            assert page.js("document.body.className") == ""
            assert page.js("stayed") is True
            backends[1].die()
            wait_for(lambda: "down" in row(page, backends[1].address))
            assert page.text("#events").count(" listens on ") == 1
        finally:
            second.stop()
    allow_refusals(page)


def allow_refusals(page: Page) -> None:
    """While nobody listened the browser has complained of that, and of nothing else."""
    page.complaints[:] = [text for text in page.complaints if "ERR_CONNECTION_RE" not in text]

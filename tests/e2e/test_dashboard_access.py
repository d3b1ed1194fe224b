"""The dashboard for everybody: in light and dark, with a keyboard, a finger, or a screen reader."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from lbproxy.admin.client import Client
from tests.e2e.browser import Page
from tests.e2e.dashboard import GONE, apiservers, browser, config, opened, page, processes, row
from tests.e2e.process import Lbproxy, lbproxy, wait_for

__all__ = ["browser", "page"]  # fixtures

WATCH = b"GET /api/v1/configmaps?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n"

# Each text that is seen, with the contrast of its colour to what is behind it: WCAG 2's formula, layers added up.
CONTRASTS = """(() => {
  const parsed = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith("color(") ? 255 : 1;
    return {rgb: [r * scale, g * scale, b * scale], a};
  };
  const over = (top, share, below) => top.map((value, index) => value * share + below[index] * (1 - share));
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const {rgb, a} = parsed(getComputedStyle(node).backgroundColor);
    return over(rgb, a, behind(node.parentElement));
  };
  const light = (rgb) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const box = node.getBoundingClientRect();
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest(".unseen, .skip") || box.width < 2) continue;
    let colour = parsed(getComputedStyle(node).color).rgb;
    let below = behind(node);
    for (let one = node; one; one = one.parentElement) {
      const {opacity} = getComputedStyle(one);
      const beyond = behind(one.parentElement);
      [colour, below] = [over(colour, Number(opacity), beyond), over(below, Number(opacity), beyond)];
    }
    const [dim, bright] = [light(colour), light(below)].sort((a, b) => a - b);
    found.push([walker.currentNode.data.trim(), (bright + 0.05) / (dim + 0.05)]);
  }
  return found;
})()"""


def readable(page: Page, *words: str) -> None:
    """All that is seen is, and these words are."""
    contrasts = page.js(CONTRASTS)
    assert [one for one in contrasts if one[1] < 4.5] == []
    for word in words:
        assert any(word in text for text, _ in contrasts), word


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read(page: Page, tmp_path: Path, dark: bool) -> None:
    """Of backends in every state, of banners, and of a page that is not true any more."""
    page.look(1280, 800, dark=dark)
    with apiservers(4) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        ink = "getComputedStyle(document.body).color"
        assert (int(page.js(f"{ink}.match(/\\d+/)[0]")) > 128) is dark
        wait_for(lambda: all("up" in row(page, one.address).split() for one in backends))
        readable(page, "All 4 backends get connections")
        Client([str(tmp_path / "lb.sock")]).post("/state", backend=backends[0].address, state="drain")
        wait_for(lambda: "drain" in row(page, backends[0].address))
        readable(page, "drain")
        backends[1].status, backends[1].body = 500, b"[-]etcd failed: reason withheld\n"
        backends[2].die()
        wait_for(lambda: "not ready" in row(page, backends[1].address))
        wait_for(lambda: "down" in row(page, backends[2].address))
        for number in range(4):
            page.js(f"document.querySelectorAll('.toggle button')[{number}].click()")
        (tmp_path / "lb.yaml").write_text("balanced: yes\n")
        running.process.send_signal(signal.SIGHUP)
        page.wait_text("The last reload was refused", "#banners")
        readable(page, "not ready", "down", "up", "In all", "The last reload was refused")
        for one in backends:
            one.die()
        page.wait_text("Everybody is refused", "#headline-more")
        readable(page, "Everybody is refused.")
        running.process.send_signal(signal.SIGSTOP)
        try:
            page.wait_text(GONE, "#banners", seconds=5.0)
            readable(page, GONE)
        finally:
            running.process.send_signal(signal.SIGCONT)


def test_a_row_opens_by_keyboard_by_mouse_and_by_finger(page: Page, tmp_path: Path) -> None:
    with processes(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        address = running.status()["listeners"][0]["bind"][0]
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as client:
            client.sendall(WATCH)
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
            details = "document.querySelector('tr.details')"
            assert page.js(f"{details}.checkVisibility()") is False
            tab_to(page, f"Details of {backends[0].address}")
            page.press("Enter")
            assert opened_rows(page) == [True, False]
            wait_for(lambda: "1 watch, the oldest" in page.text("#pools"))
            said = page.js(f"{details}.innerText")
            assert "Reason\nGET /readyz answered 200" in said
            assert "Last check\nanswered 200 in " in said
            assert " from it\n" in said
            assert "Retries elsewhere\nnone" in said
            assert page.js("document.activeElement.getAttribute('aria-label')") == f"Details of {backends[0].address}"
            page.press(" ")
            assert opened_rows(page) == [False, False]
            page.click("tr.backend .address")
            assert opened_rows(page) == [True, False]
            page.click("tr.backend button")
            assert opened_rows(page) == [False, False]
            page.look(390, 844)
            page.touch("tr.backend .strip")
            wait_for(lambda: opened_rows(page) == [True, False])
            page.touch("tr.backend button")
            wait_for(lambda: opened_rows(page) == [False, False])


def opened_rows(page: Page) -> list[bool]:
    """Which are, as the buttons say; what is seen agrees."""
    said = page.js("[...document.querySelectorAll('.toggle button')].map(one => one.ariaExpanded === 'true')")
    seen = page.js("[...document.querySelectorAll('tr.details')].map(one => one.checkVisibility())")
    assert said == seen
    assert isinstance(said, list)
    return said


def tab_to(page: Page, name: str) -> list[str]:
    """What has the focus on the way there; each time it is seen to have it."""
    focused: list[str] = []
    for _ in range(30):
        page.press("Tab")
        focused.append(page.js("document.activeElement.ariaLabel ?? document.activeElement.textContent"))
        assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid", focused
        if focused[-1] == name:
            return focused
    raise AssertionError(f"Tab does not lead to {name!r}: {focused}")


def test_a_keyboard_reaches_everything_in_order(page: Page, tmp_path: Path) -> None:
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        wait_for(lambda: all("up" in row(page, one.address).split() for one in backends))
        focused = tab_to(page, "healthz/backends")
        assert focused[:3] == ["To the pools", *(f"Details of {one.address}" for one in backends)]
        assert focused[-6:] == ["metrics", "status", "overview", "livez", "readyz", "healthz/backends"]
        page.js("document.querySelector('.skip').focus()")
        page.press("Enter")
        assert page.js("document.activeElement.id") == "pools"
        assert tab_to(page, f"Details of {backends[0].address}") == [f"Details of {backends[0].address}"]


@pytest.mark.parametrize("width", [390, 1280])
def test_what_a_screen_reader_is_told(page: Page, tmp_path: Path, width: int) -> None:
    """The accessibility tree: landmarks, headings, and a table that is one however it is laid out."""
    page.look(width, 800)
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        wait_for(lambda: all("up" in row(page, one.address).split() for one in backends))
        told = page.roles()
        roles = [role for role, _ in told]
        for landmark in ("banner", "main", "contentinfo", "navigation", "alert", "status"):
            assert roles.count(landmark) == 1, landmark
        regions = sorted(name for role, name in told if role == "region")
        assert regions == ["All 2 backends get connections", "Listeners", "Recent events", "default"]
        assert sorted(name for role, name in told if role == "heading") == regions
        assert page.js("[...document.querySelectorAll('h1, h2, h3')].map(one => one.localName)") == ["h1"] + 3 * ["h2"]

        assert [name for role, name in told if role == "table"] == ["default"]
        heads = [name for role, name in told if role == "columnheader"]
        assert heads == ["Backend", "Checks", "Check time", "Requests/s", "Open", "Long streams", "Details"]
        assert roles.count("row") == 3
        assert roles.count("cell") == 2 * (len(heads) - 1)
        rows = [name for role, name in told if role == "rowheader"]
        for one, name in zip(backends, rows, strict=True):
            assert name.startswith(f"{one.address} up for ")
            assert name.endswith(" GET /readyz answered 200")
        pictures = [name for role, name in told if role in ("image", "img")]
        assert len(pictures) == 2
        assert all(name.startswith("last ") and " up" in name for name in pictures)
        assert all(name for role, name in told if role in ("link", "button"))

        buttons = [node for node in page.told() if node["role"]["value"] == "button"]
        assert [node["name"]["value"] for node in buttons] == [f"Details of {one.address}" for one in backends]
        assert [expanded(node) for node in buttons] == [False, False]
        page.js("document.querySelector('.toggle button').click()")
        buttons = [node for node in page.told() if node["role"]["value"] == "button"]
        assert [expanded(node) for node in buttons] == [True, False]
        roles = [role for role, _ in page.roles()]
        assert roles.count("row") == 4


def expanded(node: dict[str, Any]) -> bool:
    found = {one["name"]: one["value"]["value"] for one in node["properties"]}
    return bool(found["expanded"])


def test_a_screen_reader_is_told_of_changes_and_of_nothing_else(page: Page, tmp_path: Path) -> None:
    """Numbers change every second, and nobody wants to hear that."""
    with apiservers(2) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        page.wait_text("All 2 backends get connections", "h1")
        wait_for(lambda: all("up" in row(page, one.address).split() for one in backends))
        page.js(LISTEN)
        last = last_sample(running)
        wait_for(lambda: last_sample(running) >= last + 4)
        assert page.js("heard") == []
        backends[0].die()
        page.wait_text("1 of 2 backends get connections", "h1")
        wait_for(lambda: "down" in " ".join(page.js("heard")))
        heard = page.js("heard")
        assert any(f"backend {backends[0].address} of pool default is down" in text for text in heard)
        assert len(heard) <= 3


# Everything that a live region says from now on.
LISTEN = """globalThis.heard = [];
for (const node of document.querySelectorAll("[aria-live], [role=status], [role=alert]")) {
  const hear = () => heard.push(node.textContent);
  new MutationObserver(hear).observe(node, {childList: true, characterData: true, subtree: true});
}"""


def last_sample(running: Lbproxy) -> int:
    return int(json.loads(running.get("/overview")[1])["history"]["last"])


def test_nothing_moves_for_those_who_asked_for_that(page: Page, tmp_path: Path) -> None:
    moving = "document.getAnimations().length"
    with apiservers(1) as backends, lbproxy(tmp_path, config(backends)) as running, opened(page, running):
        assert page.js(moving) == 0
        page.look(1280, 800, still=False)
        wait_for(lambda: page.js(moving) > 0)

"""A real Chromium without a window, spoken to in its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.process import wait_for
from tests.programs import require

PATIENCE = 30.0  # seconds for an answer: two busy cores and a browser that has just started
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}  # their numbers, and what they type


class Page:
    """One tab. What it asks for and complains about is kept in `requests` and `complaints`."""

    def __init__(self, to: int, fro: int) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._to = to
        self._from = fro
        self._data = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Do something and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            received = self._next(deadline)
            if received is None:
                raise TimeoutError(f"the browser does not answer {method}")
            if received.get("id") == self._number:
                assert "error" not in received, f"{method}: {received['error']}"
                result: dict[str, Any] = received["result"]
                return result
            self._note(received)

    def look(self, width: int, height: int, *, dark: bool = False, still: bool = True, scale: int = 1) -> None:
        """The size of the window, and what its user prefers; `scale` pixels of the screen are one of the page."""
        size = {"width": width, "height": height}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=scale, mobile=False)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """The value of an expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """What stands there; "" if there is no such thing."""
        return str(self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_text(self, text: str, selector: str = "body", seconds: float = 15.0) -> None:
        """Wait until it stands there."""
        try:
            wait_for(lambda: text in self.text(selector), seconds=seconds)
        except TimeoutError:
            raise TimeoutError(f"no {text!r} in {selector}: {self.text(selector)!r}") from None

    def idle(self, seconds: float) -> None:
        """Let the page run; what the browser says meanwhile is read, or it would wait for us."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (event := self._next(deadline)) is not None:
            self._note(event)

    def told(self) -> list[dict[str, Any]]:
        """What a screen reader is told of, in order: the nodes of the accessibility tree that are not ignored."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [node for node in nodes if not node["ignored"] and "role" in node]

    def roles(self) -> list[tuple[str, str]]:
        """Role and name of all that."""
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in self.told()]

    def press(self, key: str) -> None:
        """A key of a keyboard: Tab, Enter or a space."""
        code, text = KEYS[key]
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def click(self, selector: str) -> None:
        """A mouse in the middle of it."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def touch(self, selector: str) -> None:
        """A finger in the middle of it."""
        x, y = self._middle(selector)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def _middle(self, selector: str) -> tuple[float, float]:
        script = "const r = node.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
        find = f"document.querySelector({json.dumps(selector)})"
        x, y = self.js(f"(node => {{ node.scrollIntoView({{block: 'center'}}); {script} }})({find})")
        return x, y

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _next(self, deadline: float) -> dict[str, Any] | None:
        while b"\0" not in self._data:
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self._from, 1 << 20) if ready else b""
            if not data:
                return None
            self._data += data
        packet, _, self._data = self._data.partition(b"\0")
        message: dict[str, Any] = json.loads(packet)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Log.entryAdded" if about["entry"]["level"] in ("warning", "error"):
                self.complaints.append(about["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(about["exceptionDetails"]["exception"].get("description", "an exception"))
            case "Runtime.consoleAPICalled" if about["type"] in ("warning", "error", "assert"):
                self.complaints.append(str(about["args"]))


@contextmanager
def chromium(directory: Path) -> Iterator[Page]:
    """A browser with an empty profile, and its page."""
    program = require("chromium")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # It speaks on descriptors 3 and 4. (dash knows none above 9.)
    command = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{from_write}', "bash", program, *FLAGS]
    command.append(f"--user-data-dir={directory / 'chromium'}")
    with (directory / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, pass_fds=(to_read, from_write), start_new_session=True
        )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Page(to_write, from_read)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # of our own session: the browser and its helpers
        process.wait()
        os.close(to_write)
        os.close(from_read)

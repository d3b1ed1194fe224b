"""`lbproxy top` in a real terminal, which is tmux: what it shows, and how it leaves it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import free_port, lbproxy, wait_for
from tests.e2e.test_reload import Master
from tests.e2e.test_verbs import do, say
from tests.programs import require


class Screen:
    """A terminal of 80 columns and 24 lines with a shell in it."""

    def __init__(self, directory: Path) -> None:
        self._tmux = [require("tmux"), "-S", str(directory / "tmux.sock"), "-f", "/dev/null"]
        self._pids = directory / "top.pid"
        shell = "env PS1='$ ' LC_ALL=C.UTF-8 sh"
        self._do("new-session", "-d", "-x", "80", "-y", "24", shell, ";", "set", "-g", "status", "off")

    def _do(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout

    def type(self, *names: str) -> None:
        self._do("send-keys", *names)

    def run(self, *words: str) -> None:
        """Run lbproxy in it; its process is known afterwards."""
        self._pids.unlink(missing_ok=True)
        command = f"sh -c 'echo $$ > {self._pids}; exec {sys.executable} -m lbproxy {' '.join(words)}'"
        self.type("-l", f"{command}; echo exit $?")
        self.type("Enter")

    @property
    def pid(self) -> int:
        return int(self._pids.read_text())

    def resize(self, columns: int, lines: int) -> None:
        self._do("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def text(self) -> str:
        return self._do("capture-pane", "-p")

    def wait(self, *words: str) -> str:
        """Wait until all of these are on it."""
        last = ""

        def there() -> bool:
            nonlocal last
            last = self.text
            return all(word in last for word in words)

        try:
            wait_for(there)
        except TimeoutError:
            pytest.fail(f"{words} did not come:\n{last}")
        return last

    def modes(self) -> list[Any]:
        """What `stty` shows, for programs."""
        fd = os.open(self._do("display", "-p", "#{pane_tty}").strip(), os.O_RDWR | os.O_NOCTTY)
        try:
            return termios.tcgetattr(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        self._do("kill-server")


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    screen = Screen(tmp_path)
    yield screen
    screen.close()


@pytest.fixture
def masters() -> Iterator[list[Master]]:
    made = [Master(), Master()]
    yield made
    for master in made:
        with suppress(OSError):  # closed by the test
            master.close()


def config(masters: list[Master], port: int) -> str:
    return (
        f"listeners: [{{name: api, bind: '127.0.0.1:{port}', mode: http, pool: masters}}]\n"
        f"pools: {{masters: {{backends: {[one.address for one in masters]}, "
        "health_check: {interval: 200ms, fast_interval: 100ms}}}\n"
    )


def test_live(tmp_path: Path, masters: list[Master], screen: Screen) -> None:
    text = config(masters, free_port())
    with lbproxy(tmp_path, text):
        screen.run("top", "--socket", str(tmp_path / "lb.sock"), "--interval", "0.2")
        shown = screen.wait("ALL WELL", "2 of 2 get connections", " q  quit")
        assert shown.splitlines()[23].startswith(" q  quit"), "in the last line"
        do(tmp_path, "drain", masters[1].address)
        screen.wait("1 SET ASIDE", "drain*", "set to drain")
        masters[0].close()
        screen.wait("OUTAGE", "down", "connection refused")
        screen.resize(150, 40)
        screen.wait("WORKERS", "LISTENERS", "SHARE")
        screen.type("Down")
        screen.wait("▸ " + masters[0].address)
    screen.wait("NO ANSWER", "no lbproxy listens at")
    with lbproxy(tmp_path, text):
        screen.wait("lbproxy answers again", "lbproxy was started anew")
        screen.type("q")
        screen.wait("exit 0")
        assert "lbproxy answers again" not in screen.text, "the screen is the shell's again"


def test_status_fits_a_terminal_of_80_columns(tmp_path: Path, masters: list[Master], screen: Screen) -> None:
    with lbproxy(tmp_path, config(masters, free_port())) as running:
        masters[0].close()
        wait_for(lambda: running.status()["pools"][0]["backends"][0]["health"] == "down")
        screen.run("status", "--socket", str(tmp_path / "lb.sock"))
        shown = screen.wait("exit 0").splitlines()
        place = next(number for number, line in enumerate(shown) if line.startswith(masters[0].address))
        assert " down " in shown[place]
        assert shown[place + 1].startswith("  connection refused")
        assert shown[place + 2].startswith(masters[1].address)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_leaves_the_terminal_as_it_was(
    running: Path, screen: Screen, number: signal.Signals, status: int
) -> None:
    before = screen.modes()
    assert before[3] & termios.ECHO
    screen.run("top", "--socket", str(running / "lb.sock"), "--interval", "0.2")
    screen.wait("ALL WELL")
    assert not screen.modes()[3] & termios.ECHO
    os.kill(screen.pid, number)
    screen.wait(f"exit {status}")
    assert "ALL WELL" not in screen.text
    assert screen.modes() == before


def test_stopped_and_brought_back(running: Path, screen: Screen) -> None:
    screen.type("-l", "set -m")
    screen.type("Enter")
    screen.run("top", "--socket", str(running / "lb.sock"), "--interval", "0.2")
    screen.wait("ALL WELL")
    screen.type("C-z")
    screen.wait("Stopped")
    assert "ALL WELL" not in screen.text
    screen.type("-l", "fg; echo then $?")
    screen.type("Enter")
    screen.wait("ALL WELL")
    screen.type("q")
    screen.wait("then 0")


@pytest.fixture
def running(tmp_path: Path, masters: list[Master]) -> Iterator[Path]:
    """Where an lbproxy runs."""
    with lbproxy(tmp_path, config(masters, free_port())):
        yield tmp_path


def test_a_terminal_that_can_only_print(running: Path, screen: Screen) -> None:
    screen.type("-l", "TERM=dumb NO_COLOR=1; export TERM NO_COLOR")
    screen.type("Enter")
    screen.resize(80, 60)
    screen.run("top", "--socket", str(running / "lb.sock"), "--interval", "0.2")
    wait_for(lambda: screen.text.count("ALL WELL") >= 2)
    assert screen.text.replace("running", "").isascii()
    screen.type("C-c")
    screen.wait("exit 130")


def test_once_is_for_scripts(running: Path) -> None:
    text = do(running, "top", "--once", "--interval", "0.1")
    assert "\x1b" not in text
    assert "get connections" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_picture(running: Path) -> None:
    file = running / "top.svg"
    do(running, "top", "--svg", str(file), "--interval", "0.1")
    text = file.read_text()
    assert text.startswith("<svg")
    assert "masters" in text
    assert "https://" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_nobody_there(tmp_path: Path) -> None:
    done = say(tmp_path, "top")
    assert done.returncode == 1
    assert done.stderr.startswith("lbproxy top: no lbproxy listens at")


def test_a_bug_leaves_the_terminal_as_it_was(tmp_path: Path, screen: Screen) -> None:
    before = screen.modes()
    program = tmp_path / "bug.py"
    program.write_text("from lbproxy.admin.top.terminal import Terminal\nwith Terminal():\n    raise ValueError\n")
    screen.type("-l", f"{sys.executable} {program}; echo exit $?")
    screen.type("Enter")
    screen.wait("ValueError", "exit 1")
    assert screen.modes() == before

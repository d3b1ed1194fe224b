"""`lbproxy top`: asks for /status again and again, draws, and obeys keys.

Asking is done by a thread, because lbproxy may take its time, or be stopped, while somebody wants to quit.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from rich.console import Console
from rich.terminal_theme import MONOKAI

from lbproxy.admin.client import CallError, Client
from lbproxy.admin.top.frame import frame
from lbproxy.admin.top.model import History, Look
from lbproxy.admin.top.terminal import Terminal, can_draw, glyphs, rendered
from lbproxy.admin.top.view import Key, View, keys, press
from lbproxy.admin.top.words import UNICODE

SVG_SIZE = (120, 34)
Ask = Callable[[], dict[str, Any]]


def run(client: Client, args: argparse.Namespace) -> int:
    """The exit status: 0 after `q`, 128 and the signal's number after a signal. Raises CallError if nobody answers."""
    ask: Ask = lambda: client.get("/status")  # noqa: E731
    if args.svg is not None:
        return _save(ask, args)
    if args.once or not sys.stdout.isatty():
        _print(ask, args.interval)
        return 0
    if not can_draw():
        _roll(ask, args.interval)
    first = ask()
    with Terminal() as terminal, Poller(ask, args.interval) as poller:
        return Top(terminal, poller, first).run()


class Poller:
    """A thread that asks every so often. `answers` has what came, `fd` is readable when there is something in it."""

    def __init__(self, ask: Ask, interval: float) -> None:
        self.answers: SimpleQueue[tuple[float, dict[str, Any] | str]] = SimpleQueue()
        self._ask = ask
        self._interval = interval
        self._stop = threading.Event()
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # It may be in the middle of a question when the program ends.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            answer: dict[str, Any] | str
            try:
                answer = self._ask()
            except CallError as error:
                answer = str(error)
            self.answers.put((time.time(), answer))
            os.write(self._write_fd, b".")

    def take(self) -> list[tuple[float, dict[str, Any] | str]]:
        """What has come since."""
        os.read(self.fd, 4096)
        found = []
        try:
            while True:
                found.append(self.answers.get_nowait())
        except Empty:
            return found


class Top:
    """The program between the first picture and the last."""

    def __init__(self, terminal: Terminal, poller: Poller, first: dict[str, Any]) -> None:
        self._terminal = terminal
        self._poller = poller
        self._history = History()
        self._glyphs = glyphs()
        self._view = View()
        self._look = self._shown = self._history.take(time.time(), first)

    def run(self) -> int:
        while True:
            self._draw()
            data, signals, answered = self._terminal.wait(self._poller.fd)
            if answered:
                for at, answer in self._poller.take():
                    self._hear(at, answer)
            for number in signals:
                if number == signal.SIGTSTP:
                    self._terminal.suspend()
                elif number not in (signal.SIGWINCH, signal.SIGCONT):
                    return 128 + number
            for key in keys(data):
                if key is Key.QUIT:
                    return 0
                self._view = press(self._view, key, self._shown)
            if not self._view.paused:
                self._shown = self._look

    def _draw(self) -> None:
        width, height = self._terminal.size
        self._terminal.draw(frame(self._shown, self._view, width, height, self._glyphs))

    def _hear(self, at: float, answer: dict[str, Any] | str) -> None:
        """An answer, or why there is none."""
        if isinstance(answer, str):
            if not self._view.problem:
                self._history.note(at, "lbproxy does not answer", "bad")
            self._view = replace(self._view, problem=answer)
            return
        if self._view.problem:
            self._history.note(at, "lbproxy answers again", "good")
            self._view = replace(self._view, problem="")
        self._look = self._history.take(at, answer)


def _look(ask: Ask, interval: float) -> Look:
    """Two answers, because a rate needs them."""
    history = History()
    history.take(time.time(), ask())
    time.sleep(interval)
    return history.take(time.time(), ask())


def _print(ask: Ask, interval: float) -> None:
    """One picture, as long as it needs to be."""
    width = shutil.get_terminal_size().columns
    lines = frame(_look(ask, interval), View(), width, None, glyphs())
    print("\n".join(rendered(lines, Console(highlight=False, markup=False, width=width))), flush=True)


def _roll(ask: Ask, interval: float) -> NoReturn:
    """For a terminal that can only print: one picture below the other, until interrupted."""
    while True:
        _print(ask, interval)
        print(flush=True)


def _save(ask: Ask, args: argparse.Namespace) -> int:
    """One picture as a file, which names no font of somebody else's site."""
    width, height = SVG_SIZE
    console = Console(record=True, file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    for line in frame(_look(ask, args.interval), View(), width, height, UNICODE):
        console.print(line)
    picture = console.export_svg(title="lbproxy top", theme=MONOKAI)
    picture = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", picture, flags=re.DOTALL)
    Path(args.svg).write_text(picture)
    return 0

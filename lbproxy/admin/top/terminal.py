"""The terminal: keys without Enter, a screen of its own, and everything put back, whatever ends the program.

No thread of this process draws but one, and all that it waits for is a descriptor: keys, signals, and whatever else
the caller has.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterable, Sequence
from types import FrameType, TracebackType

from rich.console import Console
from rich.text import Text

from lbproxy.admin.top.words import ASCII, UNICODE, Glyphs

# The screen beside the one with the shell's lines, without a cursor; and back. It is cleared first: a terminal that has
# become larger meanwhile may mix both.
_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[H\x1b[2J\x1b[?25h\x1b[?1049l"
# Terminals that know it show the picture only when it is complete; the others ignore it.
_BEGIN, _END = "\x1b[?2026h\x1b[H", "\x1b[J\x1b[?2026l"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGWINCH, signal.SIGCONT)
_WITHOUT_BARS = ("linux", "dumb", "vt100")  # whose fonts lack them


def can_draw() -> bool:
    """Whether there is somebody at a terminal that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")


def glyphs() -> Glyphs:
    """What standard output can show."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return UNICODE if encoding == "utf8" and os.environ.get("TERM", "") not in _WITHOUT_BARS else ASCII


def rendered(lines: Iterable[Text], console: Console) -> list[str]:
    """Lines with their colours, if the terminal has any and NO_COLOR is not set."""
    with console.capture() as captured:
        for line in lines:
            console.print(line, no_wrap=True, crop=False, overflow="ignore", soft_wrap=True)
    return captured.get().split("\n")[:-1]


class Terminal:
    """Standard input and output, taken over between `with` and its end."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False)
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._before = termios.tcgetattr(self._input)
        self._signals = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Terminal:
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, _ignore)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, termios.error):  # it may be what has gone away
            self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        for fd in self._signals:
            os.close(fd)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        columns, lines = os.get_terminal_size(self._output)
        return columns or 80, lines or 24

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, and nothing else."""
        width, _ = self.size
        self._console.width = width
        parts = []
        for line, text in zip(lines, rendered(lines, self._console), strict=True):
            # In a full line the cursor stands on the last letter, which would be erased.
            parts.append(text + ("\x1b[K" if line.cell_len < width else ""))
        self._write(_BEGIN + "\r\n".join(parts) + _END)

    def wait(self, also: int) -> tuple[bytes, list[signal.Signals], bool]:
        """Keys and signals that have come, and whether `also` is readable. No keys and no more input is ^D."""
        readable, _, _ = select.select([self._input, self._signals[0], also], [], [])
        data = b""
        if self._input in readable:
            data = os.read(self._input, 1024) or b"\x04"
        numbers = list(os.read(self._signals[0], 256)) if self._signals[0] in readable else []
        return data, [signal.Signals(number) for number in numbers], also in readable

    def suspend(self) -> None:
        """As ^Z does it, with the terminal as it was; returns when somebody brings us back."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def _take(self) -> None:
        tty.setcbreak(self._input)
        self._write(_ENTER)

    def _give_back(self) -> None:
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)
        self._write(_LEAVE)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """That it came is written to the pipe."""

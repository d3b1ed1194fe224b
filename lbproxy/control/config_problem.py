"""What reading a configuration ends with: a Config with warnings, or every complaint at once, each with its line."""

from __future__ import annotations

from dataclasses import dataclass

from lbproxy.core.config import Config


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint. `line` counts from 1; 0 is the file as a whole."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.message}"


def printable(text: str) -> str:
    """A text on one line: what cannot be printed is escaped, as keys and values may hold anything."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class ConfigError(Exception):
    """A configuration that is refused. str() is one complaint per line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


@dataclass(frozen=True, slots=True)
class Loaded:
    """An accepted configuration and where it came from."""

    config: Config
    warnings: tuple[Problem, ...]
    path: str
    sha256: str  # of the file's bytes, in hex

"""Reading lb.yaml in a process of its own, so that the one that stays neither imports pydantic nor waits for it.

pydantic, yaml and the model built with them are 10 MB and a quarter of a second; a balancer needs them for an instant.
The other process is `python -m lbproxy.control.config_process FILE`, and what it writes is pickled: it is our child.
With a second argument it reads the file's text from stdin.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

from lbproxy.control.config_problem import ConfigError, Loaded


def load_apart(path: str, text: str | None = None) -> Loaded:
    """As configfile.load, or loads if there is a `text`. Raises ConfigError, and CalledProcessError if it dies."""
    command = [*command_for(path), *([] if text is None else ["-"])]
    return outcome_of(subprocess.run(command, input=(text or "").encode(), stdout=subprocess.PIPE, check=True).stdout)


def command_for(path: str) -> list[str]:
    """What reads a file and writes what came of it."""
    return [sys.executable, "-m", "lbproxy.control.config_process", path]


def outcome_of(written: bytes) -> Loaded:
    """What it has written. Raises ConfigError."""
    outcome = pickle.loads(written)
    if isinstance(outcome, Loaded):
        return outcome
    raise ConfigError(outcome)


def main(path: str, text: str | None = None) -> None:
    """The other process."""
    from lbproxy.control.configfile import load, loads

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's ^C ends both without a word
    outcome: object
    try:
        outcome = load(path) if text is None else loads(text, path)
    except ConfigError as error:
        outcome = error.problems
    sys.stdout.buffer.write(pickle.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.read() if len(sys.argv) > 2 else None)

"""Reading lb.yaml in a process of its own, so that the one that stays neither imports pydantic nor waits for it.

pydantic, yaml and the model built with them are 10 MB and a quarter of a second; a balancer needs them for an instant.
The other process is `python -m lbproxy.control.config_process FILE`, and what it writes is pickled: it is our child.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

from lbproxy.control.config_problem import ConfigError, Loaded


def load_apart(path: str) -> Loaded:
    """As configfile.load, which see. Raises ConfigError, and CalledProcessError if the other process dies."""
    command = [sys.executable, "-m", "lbproxy.control.config_process", path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    outcome = pickle.loads(done.stdout)
    if isinstance(outcome, Loaded):
        return outcome
    raise ConfigError(outcome)


def main(path: str) -> None:
    """The other process."""
    from lbproxy.control.configfile import load

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's ^C ends both without a word
    outcome: object
    try:
        outcome = load(path)
    except ConfigError as error:
        outcome = error.problems
    sys.stdout.buffer.write(pickle.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1])

"""`python -m tests.cluster.chaos.libraries LIBRARY KUBECONFIG WATCHED QUIET JOURNAL PAUSE`, told what to do on stdin.

`go` starts the calls, `quiet` ends them; the watch goes on until the input ends.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from tests.cluster.chaos.journal import Journal, Pace
from tests.cluster.chaos.libraries.work import Worker


def main(argv: list[str]) -> None:
    name, config, watched, quiet, journal_path, pause = argv[1:]
    module = importlib.import_module(f"tests.cluster.chaos.libraries.{name}_client")
    journal, pace = Journal(Path(journal_path)), Pace()
    Worker(name, module.connect(config, watched, quiet), journal, pace, float(pause)).start()
    for line in sys.stdin:
        match line.strip():
            case "go":
                pace.started.set()
            case "quiet":
                pace.quiet.set()
    pace.over.set()
    journal.finish()
    os._exit(0)  # threads may hang in a read that never ends: that is what is being measured


if __name__ == "__main__":
    main(sys.argv)

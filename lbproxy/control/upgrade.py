"""Upgrade in place: this process becomes the version that is installed now, and keeps its sockets and connections.

    the installed version is asked whether it can take over → each worker gets a socket on which to hand over
    → exec, with everything open → new workers start, say hello on those sockets, and the old ones give and end

By exec, not by a second process beside the first: the process keeps its number, which systemd, a container runtime and
pid files know. Until a new worker says hello the old ones serve as before, and if the exec fails nothing has changed.

The configuration in force goes along as text. What lb.yaml says meanwhile is for the next reload.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from lbproxy import __version__
from lbproxy.control.config_problem import Loaded
from lbproxy.core.handover import FORMAT, pack, unpack

ENVIRONMENT = "LBPROXY_UPGRADE"  # the descriptor that the estate can be read from
# What lbproxy obeys
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Estate = dict[str, Any]


def successors_check(config: str) -> tuple[list[str], bytes]:
    """What asks the installed version whether it can take over: a command, and what it reads."""
    return [_python(), "-m", "lbproxy.control.upgrade"], pack({"format": FORMAT, "config": config})


def become_successor(estate: Estate, fds: Sequence[int], environment: Mapping[str, str]) -> NoReturn:
    """Be the installed version, with these descriptors open. Raises OSError, and then nothing has changed."""
    memory = os.memfd_create("lbproxy-upgrade", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(pack(estate))
        os.lseek(memory, 0, os.SEEK_SET)
        for fd in (memory, *fds):
            os.set_inheritable(fd, True)
        # A signal that came before the successor handles it would end it: its default action is to.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.execve(_python(), [_python(), *sys.orig_argv[1:]], {**environment, ENVIRONMENT: str(memory)})
    finally:  # still here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for fd in fds:
            os.set_inheritable(fd, False)
        os.close(memory)


def inherited_estate() -> Estate | None:
    """What a predecessor has left to this process; None for one that was started as usual."""
    fd = os.environ.pop(ENVIRONMENT, None)
    if fd is None:
        return None
    with os.fdopen(int(fd), "rb") as file:
        estate = unpack(file.read())
    for number in estate["fds"]:
        os.set_inheritable(number, False)
    return estate


def loaded_from(estate: Estate) -> Loaded:
    """The configuration that was in force."""
    from lbproxy.control.config_process import load_apart

    loaded = load_apart(estate["config_path"], estate["config"])
    return replace(loaded, path=estate["config_path"], sha256=estate["config_sha256"], warnings=())


def _python() -> str:
    return sys.executable


def _answer(question: Estate) -> dict[str, str]:
    """Can this version take over?"""
    from lbproxy.control.config_problem import ConfigError
    from lbproxy.control.configfile import loads

    importlib.import_module("lbproxy.dataplane.worker")  # what will be started must be there whole
    problem = ""
    if question["format"] != FORMAT:
        problem = (
            f"lbproxy {__version__} takes connections over in format {FORMAT}, and the one that runs hands them over "
            f"in format {question['format']}: restart it instead"
        )
    else:
        try:
            loads(question["config"])
        except ConfigError as error:
            problem = f"lbproxy {__version__} refuses the configuration in force: {error.problems[0].message}"
    return {"version": __version__, "problem": problem}


if __name__ == "__main__":
    print(json.dumps(_answer(unpack(sys.stdin.buffer.read()))))

"""The way to another version: may it be, and what has to be in order before the exec."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from lbproxy import __version__
from lbproxy.admin.log import EventLog, Output
from lbproxy.control.predecessor import Bequest
from lbproxy.control.reload import kill
from lbproxy.control.service_manager import ServiceManager
from lbproxy.control.upgrade import Estate, become_successor, successors_check

CHECK_TIMEOUT = 30.0  # seconds
FLUSH_TIME = 1.0  # seconds for what is still to be logged


@dataclass(frozen=True, slots=True)
class UpgradeResult:
    """Which version is installed, and why it cannot take over, or ""."""

    version: str
    problem: str


class Upgrade:
    """The way there. `error` is why the last one came to nothing."""

    def __init__(self, log: EventLog, output: Output, service: ServiceManager) -> None:
        self.error: str | None = None
        self._log = log
        self._output = output
        self._service = service

    async def ask(self, who: str, config: str, refusal: str) -> UpgradeResult:
        """Can it be? `refusal` is why it cannot, as far as that is known already; `config` is what is in force."""
        result = UpgradeResult(*(("", refusal) if refusal else await ask_successor(config)))
        self.error = result.problem or None
        if result.problem:
            self._log.error("upgrade_failed", f"upgrade refused, asked for by {who}: {result.problem}")
        else:
            self._log.info("upgrade", f"upgrading from {__version__} to {result.version}, asked for by {who}")
        return result

    def go(self, estate: Estate, workers: Sequence[Bequest]) -> None:
        """Become the installed version. That it returns means that it could not be executed."""
        fds = [*estate["fds"], *(fd for worker in workers for fd in worker.fds)]
        self._service.reloading()
        estate |= {
            "workers": [(worker.pid, *worker.fds) for worker in workers],
            "fds": fds,
            "log_is_cut": not self._output.flush(FLUSH_TIME),  # within a line, perhaps
        }
        try:
            become_successor(estate, fds, {**os.environ, **self._service.environment})
        except OSError as error:
            self.error = f"the installed version could not be executed: {error}"
            self._log.error("upgrade_failed", self.error)
            self._service.ready()
            for worker in workers:
                os.close(worker.taker)


async def ask_successor(config: str) -> tuple[str, str]:
    """The installed version, and what keeps it from taking over, or "". `config` is the text of an lb.yaml.

    Whoever stops this process does not wait for the answer: the one that is asked is killed.
    """
    command, question = successors_check(config)
    done = None
    try:
        with trio.move_on_after(CHECK_TIMEOUT):
            done = await trio.run_process(
                command, stdin=question, capture_stdout=True, capture_stderr=True, check=False, deliver_cancel=kill
            )
    except OSError as error:
        return "", str(error)
    if done is None:
        return "", f"the installed lbproxy has not answered for {CHECK_TIMEOUT:g} s"
    try:
        answer = json.loads(done.stdout) if done.returncode == 0 else {}
        return answer["version"], answer["problem"]
    except (ValueError, KeyError):
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return "", f"the installed lbproxy cannot take over: {last or f'exit status {done.returncode}'}"

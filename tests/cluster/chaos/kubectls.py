"""What a kubectl does, again and again: get, create, apply, watch; `rollout status` is client-go's reflector."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.cluster.chaos.journal import Change, Journal, Pace
from tests.cluster.chaos.libraries.work import AGAIN, KEY, new_key

CALL_TIMEOUT = 60.0  # seconds
CHANGES = "-o=custom-columns=:metadata.name,:metadata.resourceVersion"


class KubectlError(Exception):
    """kubectl's own words."""


@dataclass
class Kubectl:
    name: str
    binary: Path
    config: Path
    cache: Path
    watched: str  # namespaces
    quiet: str
    journal: Journal
    pace: Pace
    pause: float
    said: str = ""  # by `rollout status`
    _threads: list[threading.Thread] = field(default_factory=list)
    _streams: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        for run in (self._watch, self._rollout, self._get, self._create, self._apply):
            thread = threading.Thread(target=run)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Kill its processes and wait for its threads. The pace must be over."""
        for process in self._streams:
            process.kill()
        for thread in self._threads:
            thread.join()

    def command(self, *words: str) -> list[str]:
        return [str(self.binary), f"--kubeconfig={self.config}", f"--cache-dir={self.cache}", *words]

    def _run(self, *words: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=CALL_TIMEOUT, check=False
        )
        if done.returncode:
            raise KubectlError(done.stderr.strip()[-300:])
        return done.stdout

    def _get(self) -> None:
        for _ in self.pace.turns(self.pause):
            self.journal.call(self.name, "get", lambda: len(self._run("get", "namespace", self.quiet)))

    def _create(self) -> None:
        for _ in self.pace.turns(self.pause):
            key = new_key()
            manifest = _config_map(key, generateName="w-")
            self.journal.call(self.name, "create", partial(self._send, "create", manifest), key)

    def _apply(self) -> None:
        """One object, again and again: kubectl reads it, and sends a PATCH of what is different."""
        for _ in self.pace.turns(self.pause):
            key = new_key()
            manifest = _config_map(key, name=f"w-{self.deployment}")
            self.journal.call(self.name, "apply", partial(self._send, "apply", manifest), key)

    def _send(self, verb: str, manifest: str) -> int:
        # Unvalidated: a validation reads the whole OpenAPI document, again and again.
        flags = ("-n", self.watched, "-f", "-", "--validate=false", "-o=jsonpath={.metadata.resourceVersion}")
        return int(self._run(verb, *flags, stdin=manifest))

    def _watch(self) -> None:
        while not self.pace.over.is_set():
            self.journal.call(self.name, "watch", lambda: self.journal.watch(self.name, self._changes()))
            time.sleep(AGAIN)

    def _changes(self) -> Iterator[Change]:
        """Any end is an error: whoever sat before `kubectl get -w` sees his prompt again."""
        with self._stream("get", "configmaps", "-n", self.watched, "-w", "--no-headers", CHANGES) as process:
            assert process.stdout is not None
            for line in process.stdout:
                name, _, version = line.strip().partition(" ")
                if version.strip().isdecimal():
                    yield Change("", name, version.strip())
        if not self.pace.over.is_set():
            raise KubectlError(f"the watch has ended, with status {process.returncode}")

    def _rollout(self) -> None:
        self.journal.call(self.name, "rollout", self._follow)

    def _follow(self) -> int:
        words = ("rollout", "status", "-n", self.watched, f"deployment/{self.deployment}", "--timeout=5m")
        with self._stream(*words) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self.said += line
        if process.returncode and not self.pace.over.is_set():
            raise KubectlError(self.said[-300:])
        return 0

    @property
    def deployment(self) -> str:
        return self.name.replace(".", "-")

    @property
    def rolled_out(self) -> bool:
        return "successfully rolled out" in self.said

    def _stream(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        )
        self._streams.append(process)
        return process


def _config_map(key: str, **names: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**names, "labels": {KEY: key}}})

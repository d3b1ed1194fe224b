"""One scenario behind one balancer: everybody at work, the fault, everybody at work again, and what came of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

from tests.cluster.balancer import until
from tests.cluster.chaos import audit, history, journal
from tests.cluster.chaos.contenders import Contender
from tests.cluster.chaos.faults import Scenario
from tests.cluster.chaos.journal import Call, Event, Journal, Pace
from tests.cluster.chaos.kubectls import Kubectl
from tests.cluster.chaos.outcome import LEASES, SLOW, Evidence, Outcome, judge
from tests.cluster.chaos.plane import ChaosPlane
from tests.cluster.chaos.programs import Programs
from tests.cluster.control_plane import MASTERS
from tests.cluster.leaders import DEPLOYMENT

LIBRARIES = ("kubernetes", "kr8s", "lightkube")
KUBECTL_PAUSE = 1.2  # seconds between a kubectl's end and the next one's start
LIBRARY_PAUSE = 0.3
START_TIMEOUT = 40.0  # seconds for clients and managers
SETTLE_TIMEOUT = 25.0  # seconds after the fault for everybody to work again
INFORMERS = {"controller-manager": 40, "scheduler": 9}  # watches of a leader that is at work: not all, but most of them
QUIET_CONTROLLERS = 3.0  # seconds without a LIST of theirs
TAIL_TIMEOUT = 10.0  # seconds for the last events
ROLLED_OUT = {"observedGeneration": 2, "replicas": 0, "updatedReplicas": 0, "availableReplicas": 0}
ROOT = Path(__file__).parents[3]

_numbers = count(1)


@dataclass
class Round:
    plane: ChaosPlane
    contender: Contender
    scenario: Scenario
    programs: Programs
    managers_since: float  # when they were started
    directory: Path = field(init=False)
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        self.name = f"{self.contender.name}-{self.scenario.name}-{next(_numbers)}"
        self.directory = self.plane.directory / self.name
        self.directory.mkdir()
        self.watched, self.quiet = f"{self.name}-watched", f"{self.name}-quiet"
        self.config = self.plane.kubeconfig("admin", self.contender.front)
        self.own_journal = Journal(self.directory / "kubectls.jsonl")

    def run(self) -> Outcome:
        """Raises TimeoutError if not everybody was at work before the fault."""
        self._prepare()
        with self._kubectls() as kubectls, self._libraries() as libraries:
            until(lambda: len(self._watching()) == self._watchers, "all watch", START_TIMEOUT)
            self._tell(libraries, "go")
            self.pace.started.set()
            until(lambda: self._all_work_since(self.began), "all work", START_TIMEOUT)
            until(self._versions_known, "all watches have seen a change", START_TIMEOUT)
            until(self._controllers_settled, "the controllers have listed what they watch", START_TIMEOUT)
            terms = self._terms()
            fault = time.time()
            self.scenario.run(self.plane)
            recovered = self._settle(time.time())
            self._tell(libraries, "quiet")
            self.pace.quiet.set()
            last, all_seen = self._see_the_tail()
            ended = len(self.plane.ended_managers())
            lost = sum(1 for lease, term in self._terms().items() if term != terms[lease])
            end = time.time()
            deaf = self._finish_rollouts(kubectls)
            self.pace.over.set()
        self.own_journal.finish()
        return judge(self._evidence(fault, end, last, lost, ended, deaf, recovered and all_seen))

    # -- before --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.began = time.time()
        for namespace in (self.watched, self.quiet):
            made = self.plane.call("POST", "/api/v1/namespaces", _object("v1", "Namespace", namespace))
            self.since = int(_metadata(made, "resourceVersion"))
        for name in self.programs.kubectls:
            deployment = {**DEPLOYMENT, "metadata": {"name": name.replace(".", "-")}}
            self.plane.call("POST", f"/apis/apps/v1/namespaces/{self.watched}/deployments", deployment)

    @contextmanager
    def _kubectls(self) -> Iterator[list[Kubectl]]:
        every = [
            Kubectl(
                name,
                binary,
                self.config,
                self.plane.directory / f"cache-{self.contender.name}-{name}",
                self.watched,
                self.quiet,
                self.own_journal,
                self.pace,
                KUBECTL_PAUSE,
            )
            for name, binary in self.programs.kubectls.items()
        ]
        for one in every:
            one.start()
        try:
            yield every
        finally:
            for event in (self.pace.started, self.pace.quiet, self.pace.over):
                event.set()
            for one in every:
                one.stop()

    @contextmanager
    def _libraries(self) -> Iterator[list[subprocess.Popen[str]]]:
        every = [self._library(name) for name in LIBRARIES]
        try:
            yield every
            for process in every:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(5)
        finally:
            for process in every:
                process.kill()
                process.wait()

    def _library(self, name: str) -> subprocess.Popen[str]:
        module = ["-m", "tests.cluster.chaos.libraries", name]
        where = [str(self.config), self.watched, self.quiet, str(self._journal(name)), str(LIBRARY_PAUSE)]
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [str(self.programs.python), *module, *where],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )

    def _journal(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    def _tell(self, libraries: list[subprocess.Popen[str]], what: str) -> None:
        for process in libraries:
            assert process.stdin is not None
            process.stdin.write(what + "\n")
            process.stdin.flush()

    # -- at work -------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[list[Call], list[Event]]:
        return journal.read([self.directory / "kubectls.jsonl", *(self._journal(name) for name in LIBRARIES)])

    @cached_property
    def _audit_logs(self) -> list[Path]:
        return [self.plane.audit_log(number) for number in range(len(MASTERS))]

    @property
    def _watchers(self) -> int:
        return len(LIBRARIES) + len(self.programs.kubectls)

    def _asked(self, until: float, since: float | None = None) -> list[audit.Asked]:
        return audit.read(self._audit_logs, self.began if since is None else since, until)

    def _stored(self) -> list[history.Stored]:
        return [one for one in history.config_maps(self.watched, self.since) if one.name.startswith("w-")]

    def _watching(self) -> set[str]:
        """Who watches the watched namespace."""
        asked = self._asked(time.time())
        return {
            one.client
            for one in asked
            if one.verb == "watch" and one.resource == "configmaps" and one.namespace == self.watched
        }

    def _loops(self) -> set[tuple[str, str]]:
        kubectls = {(name, operation) for name in self.programs.kubectls for operation in ("get", "create", "apply")}
        return kubectls | {(name, operation) for name in LIBRARIES for operation in ("list", "create")}

    def _all_work_since(self, moment: float) -> bool:
        """Whether each loop has done something, and each watcher has seen something of it, that began after then."""
        calls, events = self._read()
        fresh = [call for call in calls if call.began >= moment and not call.error and call.ended - call.began < SLOW]
        working = {(call.client, call.operation) for call in fresh}
        versions = {call.version for call in fresh if call.version}
        watching = {event.client for event in events if event.version in versions}
        return self._loops() <= working and len(watching) == self._watchers

    def _versions_known(self) -> bool:
        """Whether all have seen more than additions: from those nobody can tell where a watch without a version is."""
        _, events = self._read()
        return len({event.client for event in events if event.kind == "MODIFIED"}) == len(LIBRARIES)

    def _settle(self, moment: float) -> bool:
        """Give everybody time to recover; whether they have."""
        try:
            until(lambda: self._all_work_since(moment), "all work again", SETTLE_TIMEOUT)
        except TimeoutError:
            print(f"{self.name}: not everybody works {SETTLE_TIMEOUT} s after the fault", file=sys.stderr)
            return False
        return True

    def _see_the_tail(self) -> tuple[int, bool]:
        """Wait until every watcher has seen all that is stored now: the version up to which they are judged, and
        whether they all have."""
        last = max((one.version for one in self._stored()), default=0)

        def all_seen() -> bool:
            _, events = self._read()
            return len({event.client for event in events if event.version >= last}) == self._watchers

        try:
            until(all_seen, "all have seen the last event", TAIL_TIMEOUT)
        except TimeoutError:
            print(f"{self.name}: not everybody has seen the last event", file=sys.stderr)
            return last, False
        return last, True

    def _finish_rollouts(self, kubectls: list[Kubectl]) -> int:
        """Say what a controller says when nothing is left to roll out; how many reflectors have not heard it."""
        for one in kubectls:
            path = f"/apis/apps/v1/namespaces/{self.watched}/deployments/{one.deployment}"
            self.plane.call("PATCH", path, {"spec": {"replicas": 0}})
            self.plane.call("PATCH", f"{path}/status", {"status": ROLLED_OUT})
        with suppress(TimeoutError):
            until(lambda: all(one.rolled_out for one in kubectls), "all rollouts end", TAIL_TIMEOUT)
        return sum(1 for one in kubectls if not one.rolled_out)

    def _controllers_settled(self) -> bool:
        """A new leader lists everything there is, once; LISTs are counted when it has done so."""
        now = time.time()
        asked = [one for one in self._asked(now, self.managers_since) if one.client in audit.CONTROLLERS]
        watching = Counter(one.client for one in asked if one.verb == "watch")
        listing = any(one.verb == "list" and one.at > now - QUIET_CONTROLLERS for one in asked)
        return not listing and all(watching[name] >= INFORMERS[name] for name in audit.CONTROLLERS)

    # -- what came of it -----------------------------------------------------------------------------------------

    def _terms(self) -> dict[str, tuple[object, object]]:
        found: dict[str, tuple[object, object]] = {}
        for name in LEASES:
            lease = self.plane.call("GET", f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}")
            spec = lease["spec"]
            assert isinstance(spec, dict)
            found[name] = (spec["holderIdentity"], spec["leaseTransitions"])
        return found

    def _evidence(
        self, fault: float, end: float, last: int, leaders_lost: int, managers_ended: int, deaf: int, recovered: bool
    ) -> Evidence:
        calls, events = self._read()
        stored = self._stored()
        return Evidence(
            calls=calls,
            events=[event for event in events if event.name.startswith("w-")],
            stored=[one for one in stored if one.version <= last],
            executed=Counter(key for one in stored for key in one.keys),
            asked=self._asked(end),
            fault=fault,
            end=end,
            watched=self.watched,
            leaders_lost=leaders_lost,
            managers_ended=managers_ended,
            deaf=deaf,
            recovered=recovered,
        )


def _object(version: str, kind: str, name: str) -> dict[str, object]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _metadata(made: dict[str, object], key: str) -> str:
    metadata = made["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata[key])

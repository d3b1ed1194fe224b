"""A loop of kubectl calls that keeps a journal, and a watcher whose events must come to the same."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import trio

from tests.cluster.kubectl import Kubectl

PREFIX = "work-"  # the controller-manager puts a ConfigMap of its own into every namespace

# How a stream ends that dies with its master. Anything else that kubectl says is a failure: that it was refused,
# that it could not connect, that it was told 502 or 503.
CUT = re.compile(r"unexpected EOF|connection reset by peer|http2: .* (closed|lost)|GOAWAY|INTERNAL_ERROR")


@dataclass
class Work:
    """Creates, reads, deletes every second one. Every call must succeed; what was acknowledged must be there, once."""

    kubectl: Kubectl
    journal: list[tuple[str, str]] = field(default_factory=list)  # (type of the watch event, name)
    calls: int = 0
    between_calls: trio.Lock = field(default_factory=trio.Lock)

    async def run(self) -> None:
        for number in count(1):
            name = f"{PREFIX}{number}"
            await self._call("create", "configmap", name, "--from-literal=a=b", event=("ADDED", name))
            await self._call("get", "configmap", name)
            if number % 2:
                await self._call("delete", "configmap", name, event=("DELETED", name))

    async def _call(self, *words: str, event: tuple[str, str] | None = None) -> None:
        async with self.between_calls:
            with trio.CancelScope(shield=True):  # a test that ends must not leave a change half known
                await self.kubectl.call(*words)
                self.calls += 1
                if event is not None:
                    self.journal.append(event)

    def check(self) -> None:
        """What was acknowledged is there, and nothing else is."""
        names = self.kubectl("get", "configmap", "-o", "jsonpath={.items[*].metadata.name}").split()
        deleted = {name for event, name in self.journal if event == "DELETED"}
        kept = {name for event, name in self.journal if event == "ADDED"} - deleted
        assert sorted(name for name in names if name.startswith(PREFIX)) == sorted(kept)


@dataclass
class Watcher:
    """Watches as a controller does: a stream that ends is opened again at the last version seen.

    A stream may end with its master. Opening the next one may never fail, and over all of them every change must have
    been seen, once and in order.
    """

    kubectl: Kubectl
    version: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    streams: int = 0

    @classmethod
    def of(cls, kubectl: Kubectl) -> Watcher:
        """One that starts at what is there now."""
        listed = json.loads(kubectl("get", "--raw", f"/api/v1/namespaces/{kubectl.namespace}/configmaps?limit=1"))
        return cls(kubectl, listed["metadata"]["resourceVersion"])

    async def run(self) -> None:
        while True:
            self.streams += 1
            await self._one_stream()

    async def wait_seen(self, events: int) -> None:
        """Wait until it has seen so many."""
        with trio.fail_after(10):
            while len(self.seen) < events:
                await trio.sleep(0.02)

    async def _one_stream(self) -> None:
        path = f"/api/v1/namespaces/{self.kubectl.namespace}/configmaps?watch=true&resourceVersion={self.version}"
        start = partial(trio.run_process, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(start, self.kubectl.command("get", "--raw", path))
            assert process.stdout is not None
            assert process.stderr is not None
            rest = b""
            async for chunk in process.stdout:
                *lines, rest = (rest + chunk).split(b"\n")  # half a line is an event that was cut, and comes again
                for line in lines:
                    self._see(json.loads(line))
            complaint = b"".join([chunk async for chunk in process.stderr]).decode()
        assert process.returncode == 0 or CUT.search(complaint), complaint

    def _see(self, event: dict[str, object]) -> None:
        match event:
            case {"type": str(kind), "object": {"metadata": {"name": str(name), "resourceVersion": str(version)}}}:
                assert int(version) > int(self.version), f"{kind} {name} again, or late: {version} after {self.version}"
                self.version = version
                if name.startswith(PREFIX):
                    self.seen.append((kind, name))
            case _:
                raise AssertionError(f"not a change: {event}")


@asynccontextmanager
async def standing_still(works: list[Work]) -> AsyncIterator[None]:
    """No call is under way in this block; the next ones start when it ends."""
    async with AsyncExitStack() as stack:
        for work in works:
            await stack.enter_async_context(work.between_calls)
        yield


async def progress(works: list[Work], more: int) -> None:
    """Wait until each loop has made so many more calls: calls, not time, show that it works."""
    goals = [work.calls + more for work in works]
    with trio.fail_after(120):
        while any(work.calls < goal for work, goal in zip(works, goals, strict=True)):
            await trio.sleep(0.02)

"""Reloading lb.yaml: what a reload ends with, and the words for what it has changed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, fields

import trio

from lbproxy.control.config_problem import Loaded
from lbproxy.control.config_process import command_for, outcome_of
from lbproxy.core.config import Config, Listener, Pool


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """`problems` are why the file was refused, and then nothing has changed; `changes` are what is different now."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


async def load_meanwhile(path: str) -> Loaded:
    """As load_apart; when it is cancelled, the process that reads is killed: a stop does not wait for a file."""
    done = await trio.run_process(command_for(path), stdin=subprocess.DEVNULL, capture_stdout=True, deliver_cancel=kill)
    return outcome_of(done.stdout)


async def kill(process: trio.Process) -> None:
    """It has nothing to lose."""
    process.kill()


def differences(old: Config, new: Config) -> Iterator[str]:
    """What a reload changes, a phrase each, for the log."""
    before = {one.name: one for one in old.listeners}
    for listener in new.listeners:
        was = before.pop(listener.name, None)
        if was is None:
            yield f"listener {listener.name} added"
        else:
            yield from _listener(was, listener)
    yield from (f"listener {name} removed" for name in before)
    pools = {one.name: one for one in old.pools}
    for pool in new.pools:
        known = pools.pop(pool.name, None)
        if known is None:
            yield f"pool {pool.name} added"
        else:
            yield from _pool(known, pool)
    yield from (f"pool {name} removed" for name in pools)
    for field in fields(Config):
        if field.name not in ("listeners", "pools") and getattr(old, field.name) != getattr(new, field.name):
            yield f"{field.name} changed"


def _listener(old: Listener, new: Listener) -> Iterator[str]:
    if (old.mode, old.pool) != (new.mode, new.pool):
        yield f"listener {new.name} is another one: mode or pool changed"
        return
    changed = [field.name for field in fields(Listener) if getattr(old, field.name) != getattr(new, field.name)]
    if changed:
        yield f"listener {new.name}: {', '.join(changed)} changed"


def _pool(old: Pool, new: Pool) -> Iterator[str]:
    before = {backend.address.text: backend for backend in old.backends}
    for backend in new.backends:
        was = before.pop(backend.address.text, None)
        if was is None:
            yield f"backend {backend.address} added to pool {new.name}"
        elif was != backend:
            yield f"backend {backend.address} of pool {new.name} changed"
    yield from (f"backend {text} removed from pool {new.name}" for text in before)
    changed = [
        field.name
        for field in fields(Pool)
        if field.name not in ("name", "backends") and getattr(old, field.name) != getattr(new, field.name)
    ]
    if changed:
        yield f"pool {new.name}: {', '.join(changed)} changed"

"""The verbs of the unix socket: POST with JSON in and out. What is asked for here changes something.

    POST /reload
    POST /upgrade
    POST /state    {"backend": "10.0.0.1:6443", "pool": "apiservers", "state": "ready" | "drain" | "maint"}
    POST /weight   {"backend": ..., "pool": ..., "weight": 1..65535}     both: without a backend all of the pool
    POST /kick     {"backend": ..., "pool": ..., "client": "192.0.2.1:40000"}     any of them
    GET  /connections?backend=...&pool=...&client=...&source=...

`pool` may be left out where one pool only has the backend, and the port where one backend only has the address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from typing import Any, Protocol

from lbproxy.admin.view import BackendView, View
from lbproxy.core.config import BackendState
from lbproxy.core.messages import Find, Found

MOST_WEIGHT = 65535


class Reloaded(Protocol):
    """What a reload ended with."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the file was refused; nothing has changed then."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will hurt."""

    @property
    def changes(self) -> tuple[str, ...]:
        """What is different now."""


class Upgrading(Protocol):
    """What came of asking for an upgrade."""

    @property
    def version(self) -> str:
        """The version that is installed."""

    @property
    def problem(self) -> str:
        """Why it cannot take over, or "": then it does, in a moment."""


class Actions(View, Protocol):
    """Implemented by the composition root. `who` stands in the log."""

    async def reload(self) -> Reloaded:
        """Read lb.yaml again."""

    async def upgrade(self, who: str) -> Upgrading:
        """Become the version that is installed."""

    def settled(self) -> AbstractAsyncContextManager[object]:
        """For as long as this lasts nothing else changes the configuration. Waits for a reload that goes on."""

    async def set_state(self, pool: str, addresses: Sequence[str], state: BackendState, who: str) -> None:
        """Set what the operator says of these backends. Within settled(), as they must be there."""

    async def set_weight(self, pool: str, addresses: Sequence[str], weight: int, who: str) -> None:
        """Set these backends' weight. Within settled(), too."""

    async def find(self, wanted: Find, who: str) -> Found:
        """Client connections, ended if that is wanted."""


class VerbError(Exception):
    """A request that cannot be met; the text says why and what to write instead."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def perform(actions: Actions, verb: str, body: bytes, who: str) -> dict[str, Any]:
    """Do what is asked for. Raises VerbError."""
    asked = _fields(body)
    match verb:
        case "/reload":
            result = await actions.reload()
            if result.problems:
                raise VerbError(409, "\n".join(result.problems))
            return {"changes": result.changes, "warnings": result.warnings}
        case "/upgrade":
            upgrading = await actions.upgrade(who)
            if upgrading.problem:
                raise VerbError(409, upgrading.problem)
            return {"version": upgrading.version}
        case "/state" | "/weight":
            async with actions.settled():
                if actions.draining:
                    raise VerbError(409, "lbproxy is shutting down")
                return await _set(actions, verb, asked, who)
        case "/kick":
            wanted = find_fields(actions, asked)
            if not (wanted.backend or wanted.client or wanted.pool):
                raise VerbError(400, "say whose connections: a backend, a client or a pool")
            found = await actions.find(replace(wanted, end=True), who)
            return {"ended": found.count}
    raise VerbError(404, "no such verb; there are: /reload, /upgrade, /state, /weight, /kick")


async def _set(actions: Actions, verb: str, asked: Mapping[str, Any], who: str) -> dict[str, Any]:
    pool, addresses = which_ones(actions, asked)
    if verb == "/state":
        state = _state(asked.get("state"))
        await actions.set_state(pool, addresses, state, who)
        return {"pool": pool, "backends": addresses, "state": state.value, "ready": _ready(actions, pool)}
    weight = asked.get("weight")
    if type(weight) is not int or not 1 <= weight <= MOST_WEIGHT:
        raise VerbError(400, f"a weight is a whole number from 1 to {MOST_WEIGHT}; to give it nothing, drain it")
    await actions.set_weight(pool, addresses, weight, who)
    return {"pool": pool, "backends": addresses, "weight": weight}


async def connections(actions: Actions, asked: Mapping[str, str]) -> dict[str, Any]:
    """The client connections that match. Raises VerbError."""
    found = await actions.find(find_fields(actions, asked), "")
    return {"count": found.count, "connections": [asdict(row) for row in found.rows]}


def which(view: View, asked: Mapping[str, Any]) -> tuple[str, str]:
    """The pool and the address of the one backend that is meant. Raises VerbError."""
    backend, pool = _text(asked, "backend"), _text(asked, "pool")
    pools = {name: views for name, views in view.pools().items() if pool in ("", name)}
    if not pools:
        _pool(view, pool)
    all_of_them = [(name, one.config.address) for name, views in pools.items() for one in views]
    found = [(name, address.text) for name, address in all_of_them if address.text == backend]
    found = found or [(name, address.text) for name, address in all_of_them if address.host == backend]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(dict.fromkeys(address.text for _, address in all_of_them))
        raise VerbError(404, f"there is no backend {backend or '(none given)'}; there are: {known}")
    if len({name for name, _ in found}) > 1:
        names = ", ".join(dict.fromkeys(name for name, _ in found))
        raise VerbError(409, f"{backend} is in several pools, say which with --pool: {names}")
    raise VerbError(409, f"{backend} is several backends, write the port: {', '.join(text for _, text in found)}")


def which_ones(view: View, asked: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The pool, and the addresses of the backend that is meant, or of all that it has. Raises VerbError."""
    pool = _text(asked, "pool")
    if _text(asked, "backend"):
        pool, address = which(view, asked)
        return pool, [address]
    if not pool:
        raise VerbError(400, "say whose: a backend's, or with --pool those of all that a pool has")
    return pool, [one.config.address.text for one in _pool(view, pool)]


def find_fields(view: View, asked: Mapping[str, Any]) -> Find:
    """What connections are meant. Raises VerbError."""
    pool, client, source = _text(asked, "pool"), _text(asked, "client"), _text(asked, "source")
    if _text(asked, "backend"):
        # In several pools it is still the same backend.
        found = {which(view, {**asked, "pool": name})[1] for name in _pools_of(view, asked)}
        return Find(pool, found.pop(), client, source)
    if pool:
        _pool(view, pool)
    return Find(pool, "", client, source)


def _pool(view: View, name: str) -> list[BackendView]:
    """Its backends. Raises VerbError."""
    pools = view.pools()
    if name not in pools:
        raise VerbError(404, f"there is no pool {name}; there are: {', '.join(pools)}")
    return pools[name]


def _pools_of(view: View, asked: Mapping[str, Any]) -> list[str]:
    backend, pool = _text(asked, "backend"), _text(asked, "pool")
    names = [
        name
        for name, views in view.pools().items()
        if pool in ("", name) and any(backend in (one.config.address.text, one.config.address.host) for one in views)
    ]
    return names[:1] or [pool]


def _ready(view: View, pool: str) -> int:
    return sum(one.eligible for one in view.pools()[pool])


def _state(word: object) -> BackendState:
    try:
        return BackendState(word)
    except ValueError:
        raise VerbError(400, f"a state is one of {', '.join(one.value for one in BackendState)}") from None


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body or b"{}")
    except ValueError:
        raise VerbError(400, "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise VerbError(400, "the body is not a JSON object")
    return fields


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise VerbError(400, f"{name} must be a text")
    return value

"""The keys of lb.yaml, read off the dataclasses of core/config.py.

One list for everyone who needs to know them: the models that check a file (config_model), the printing of values
(config_spelling), hints about unknown keys (config_messages) and the reference (config_reference).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from lbproxy.core.config import Address, Balance, Config, Listener, Pool, Timeouts


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section of lb.yaml."""

    name: str
    kind: Any  # a dataclass, an Enum, a Literal, a Unit, a Form, Address, Balance, bool, int or str
    many: bool  # a list of them
    optional: bool  # may be null
    default: Any  # MISSING for a required key
    doc: str
    otherwise: str = ""  # what stands for a missing key without a default
    minimum: float | None = None
    maximum: float | None = None
    word: str = ""  # what may stand for null, or for what the machine has
    advice: str = ""

    @property
    def required(self) -> bool:
        return self.default is MISSING and not self.otherwise

    @property
    def section(self) -> Any:
        """The dataclass behind a key that holds further keys, else None."""
        return self.kind if dataclasses.is_dataclass(self.kind) and self.kind not in (Address, Balance) else None


# The one key that stands in no dataclass: every listener carries its own, already merged.
GLOBAL_TIMEOUTS = Key(
    "timeouts", Timeouts, False, False, Timeouts(), "Bounds on every wait; a listener may override single ones."
)


@cache
def keys_of(section: Any) -> tuple[Key, ...]:
    """The keys of a section in the order of its dataclass. A pool's name is a key of `pools`, not of the pool."""
    hints = get_type_hints(section, include_extras=True)
    found = tuple(_key(field, hints[field.name]) for field in dataclasses.fields(section))
    if section is Pool:
        return tuple(key for key in found if key.name != "name")
    return (*found, GLOBAL_TIMEOUTS) if section is Config else found


def section_at(path: tuple[str | int, ...]) -> Any:
    """The section whose keys stand under a path, None where single values stand or nothing is known."""
    section: Any = Config
    steps = iter(path)
    for step in steps:
        if section is None or isinstance(step, int):
            continue
        key = next((key for key in keys_of(section) if key.name == step), None)
        section = key.section if key else None
        if section is Pool:
            next(steps, None)  # the pool's name
    return section


@cache
def places() -> dict[str, tuple[str, ...]]:
    """Where each key belongs, in words, such as `pools.NAME`; the top level is empty."""
    found: dict[str, list[str]] = {}
    for place in sections():
        for key in keys_of(place.section):
            found.setdefault(key.name, []).append(place.name)
    return {name: tuple(where) for name, where in found.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """A section where it stands in lb.yaml."""

    name: str  # such as pools.NAME.backends[]; empty for the top level
    section: Any
    defaults: Any  # an instance with what its keys default to here, None where some are required

    def default(self, key: Key) -> Any:
        return getattr(self.defaults, key.name, key.default)


def sections(name: str = "", section: Any = Config, defaults: Any = None) -> Iterator[Place]:
    """Every section with its place, each before those inside it."""
    place = Place(name, section, defaults)
    yield place
    for key in keys_of(section):
        # A listener's timeouts are the global ones over again.
        if key.section and not (section is Listener and key.section is Timeouts):
            suffix = ".NAME" if key.section is Pool else "[]" if key.many else ""
            inner = None if key.many else place.default(key)
            yield from sections(f"{name}.{key.name}{suffix}".removeprefix("."), key.section, inner)


def _key(field: dataclasses.Field[Any], hint: Any) -> Key:
    hint, optional = _without_none(hint)
    many = get_origin(hint) is tuple
    if many:
        hint = get_args(hint)[0]
    kind = hint.__metadata__[0] if get_origin(hint) is Annotated else hint
    return Key(field.name, kind, many, optional, field.default, **field.metadata)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    (inner,) = (part for part in get_args(hint) if part is not type(None))
    return inner, True

"""How lbproxy itself writes values of lb.yaml: in the effective configuration, the schema and the reference."""

from __future__ import annotations

from enum import Enum
from typing import Any

import yaml

from lbproxy.control.config_keys import GLOBAL_TIMEOUTS, Key, keys_of
from lbproxy.core.config import Address, Balance, Config, Unit

_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def effective(config: Config) -> str:
    """The configuration as an lb.yaml in full form that means the same."""
    return yaml.safe_dump(section(config), sort_keys=False, width=120, allow_unicode=True)


def section(value: Any) -> dict[str, Any]:
    """A dataclass of core/config.py as the mapping that lb.yaml has for it."""
    source: Any = type(value)
    return {key.name: spell(key, getattr(value, key.name)) for key in keys_of(source) if key is not GLOBAL_TIMEOUTS}


def spell(key: Key, value: Any) -> Any:
    """The value of a key, in what YAML can hold."""
    if value is None:
        return key.word or None
    if key.name == "pools":
        return {pool.name: section(pool) for pool in value}
    if key.many:
        return [_single(key, item) for item in value]
    return _single(key, value)


def _single(key: Key, value: Any) -> Any:
    if key.section:
        return section(value)
    match value:
        case Address():
            return value.text
        case Balance(algorithm, hash_key):
            return {algorithm.value: hash_key} if hash_key else algorithm.value
        case Enum():
            return value.value
    match key.kind:
        case Unit.DURATION | Unit.WHOLE:
            return seconds(value)
        case Unit.SIZE:
            return size(value)
        case Unit.RATIO:
            return ratio(value)
    return value


def bound(key: Key, value: float) -> Any:
    """The least or most of a key, as it would be written."""
    return _single(key, value if key.kind in (Unit.DURATION, Unit.WHOLE, Unit.RATIO) else int(value))


def seconds(value: float) -> str | float:
    if value == int(value):
        return f"{int(value) // 3600}h" if value and value % 3600 == 0 else f"{int(value)}s"
    milliseconds = round(value * 1000)
    return f"{milliseconds}ms" if milliseconds / 1000 == value else value


def size(value: int) -> str | int:
    return next((f"{value // unit}{name}" for name, unit in _SIZES if value and value % unit == 0), value)


def ratio(value: float) -> str | float:
    percent = round(value * 100)
    return f"{percent}%" if percent / 100 == value else value

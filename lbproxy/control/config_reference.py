"""What is generated from the model of lb.yaml: its JSON Schema and the tables of docs/configuration.md.

    python -m lbproxy.control.config_reference conf/lb.schema.json docs/configuration.md

brings both up to date.
"""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lbproxy.control.config_keys import Key, Place, keys_of, sections
from lbproxy.control.config_model import json_schema
from lbproxy.control.config_spelling import bound, spell
from lbproxy.core.config import Address, Balance, Form, Listener, Pool, Timeouts, Unit

BEGIN = "<!-- generated from lbproxy/core/config.py: do not edit below -->\n"
END = "<!-- generated until here -->\n"

_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    str: "text",
    Address: "address",
    Balance: "algorithm",
    Unit.DURATION: "duration",
    Unit.WHOLE: "duration",
    Unit.SIZE: "size",
    Unit.RATIO: "share",
    Form.NAME: "name",
    Form.CIDR: "CIDR",
    Form.FILE: "file",
    Form.HOST: "text",
    Form.SERVER_NAME: "DNS name or IP address",
    Form.TARGET: "path",
    Form.TOKEN: "text",
    Form.SOCKET: "path",
}


def schema() -> str:
    """JSON Schema of lb.yaml, as conf/lb.schema.json holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def renewed(document: str) -> str:
    """A document with its tables as the model has them now. Raises ValueError if it has no place for them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the marks around the generated tables are missing")
    return before + BEGIN + "\n" + tables() + "\n" + END + after


def tables() -> str:
    """A table of keys for every section of lb.yaml, in Markdown."""
    return "\n".join(map(_table, sections()))


def _table(place: Place) -> str:
    lines = [f"### {f'`{place.name}`' if place.name else 'Top level'}", ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    rows = ((key, _value(key), _default(place, key), key.doc) for key in keys_of(place.section))
    lines += [f"| `{key.name}` | {value} | {default} | {doc} |" for key, value, default, doc in rows]
    return "\n".join(lines) + "\n"


def _value(key: Key) -> str:
    if key.section:
        return "mapping of names to mappings" if key.section is Pool else "list of mappings" if key.many else "mapping"
    if get_origin(key.kind) is Literal:
        words = _either(list(get_args(key.kind)))
    elif isinstance(key.kind, type) and issubclass(key.kind, Enum):
        words = _either([member.value for member in key.kind])
    else:
        words = _KINDS[key.kind]
    words = f"list of: {words}" if key.many else words
    return words + _bounds(key) + (f", or `{key.word}`" if key.word else "")


def _either(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _bounds(key: Key) -> str:
    if key.maximum is not None and key.minimum is not None:
        return f", {bound(key, key.minimum)} to {bound(key, key.maximum)}"
    return f", at least {bound(key, key.minimum)}" if key.minimum else ""


def _default(place: Place, key: Key) -> str:
    default = place.default(key)
    if default is MISSING:
        return key.otherwise or "required"
    if place.section is Listener and key.section is Timeouts:
        return "the global ones"
    return "see there" if key.section else f"`{_inline(spell(key, default))}`"


def _inline(value: Any) -> str:
    """A value in YAML's flow style, for which JSON without quotes will do here."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_inline(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def main(schema_file: str, document_file: str) -> None:
    Path(schema_file).write_text(schema(), encoding="utf-8")
    document = Path(document_file)
    document.write_text(renewed(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

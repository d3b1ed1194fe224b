"""From the text of lb.yaml to plain values, keeping the line of each.

PyYAML's own construction is not used: it forgets lines, lets a repeated key win silently, and reads more than we mean
(`10:30` as a number to base 60, `2024-01-01` as a date, `010` as eight). Only null, booleans in all their YAML 1.1
spellings, decimal numbers and text are read here.

The short form is unfolded into the full form on the level of YAML nodes, so that lines stay true and everything
after this module knows one form only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from lbproxy.control.config_problem import ConfigError, Problem, printable

Path = tuple[str | int, ...]

SHORT_KEYS = ("listen", "mode", "backends", "balance", "health_check")
SHORT_POOL = "default"
_UNFOLDING_KEYS = frozenset(SHORT_KEYS[:3])
_FULL_KEYS = frozenset(("listeners", "pools"))
_SHORT_LISTENER: Path = ("listeners", 0)
_SHORT_POOL: Path = ("pools", SHORT_POOL)

# Aliases can name a node again and again; a configuration of this many values is none that anyone wrote.
_MAX_VALUES = 200_000

# An IPv6 address where YAML reads a list: [::]:6443.
_BARE_IPV6 = re.compile(r"(?<![\"'])(\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]:[0-9]+)")

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with fewer implicit types."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _kind, _pattern, _first in (
    ("bool", r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})$", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{0,40}(?:[eE][-+]?[0-9]{1,3})?$", "-+0123456789"),
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"<<$", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), list(_first))


@dataclass(slots=True)
class Document:
    """The values of one file and where they stand."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    short: bool = False
    problems: list[Problem] = field(default_factory=list)
    spoiled: set[Path] = field(default_factory=set)  # complained about already: what stands there is not meant

    def complain(self, path: Path, message: str) -> None:
        """Note a problem with the value at a path."""
        self.problems.append(self.problem(path, message))
        self.spoiled.add(path)

    def problem(self, path: Path, message: str) -> Problem:
        return self.problem_in(self.line(path), path, message)

    def problem_in(self, line: int, path: Path, message: str) -> Problem:
        place = self.place(path)
        return Problem(self.name, line, printable(f"{place}: {message}" if place else message))

    def line(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it that the file has."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def is_spoiled(self, path: Path) -> bool:
        return any(path[:length] in self.spoiled for length in range(len(path) + 1))

    def place(self, path: Path) -> str:
        """A path in the operator's words: pools.api.backends[0].weight; empty for the top level."""
        text = ""
        for step in self._written(path):
            text += f"[{step}]" if isinstance(step, int) else f".{step}"
        return text.removeprefix(".")

    def get(self, *path: str | int) -> Any:
        """The value at a path, None where there is none."""
        value: Any = self.data
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value

    def written(self, path: Path) -> Path:
        """A path of the model as far as the file goes: a scalar may stand for a list of one, or for a mapping."""
        value: Any = self.data
        for length, step in enumerate(path):
            if not isinstance(value, dict | list):
                return path[:length]
            value = value[step] if isinstance(step, int) and isinstance(value, list) else _get(value, step)
        return path

    def _written(self, path: Path) -> Path:
        if not self.short or path[:2] not in (_SHORT_LISTENER, _SHORT_POOL):
            return path
        rest = path[2:]
        return ("listen", *rest[1:]) if rest[:1] == ("bind",) and path[0] == "listeners" else rest


def _get(value: Any, step: str | int) -> Any:
    """What is under a key; a key that is missing can be complained about, too, so nothing ends there."""
    return value.get(step, {}) if isinstance(value, dict) else {}


def read(text: str, name: str) -> Document:
    """The values of a file. Problems below the level of YAML's grammar are noted in the document.

    Raises ConfigError for what is not YAML or not a mapping: there is nothing to look at further.
    """
    root = _compose(text, name)
    if root is None:
        raise _refusal(name, 1, "the file is empty: it needs at least listen, mode and backends")
    if not isinstance(root, MappingNode):
        raise _refusal(name, _line(root), "not a mapping: lb.yaml consists of `key: value` lines")
    document = Document(name)
    reading = _Reading(document)
    root = _unfold(root, document)
    try:
        document.data = reading.mapping(root, ())
    except RecursionError:
        raise _refusal(name, _line(root), "nested too deeply") from None
    return document


def _compose(text: str, name: str) -> Node | None:
    try:
        loader = _Loader(text)
        try:
            node: Node | None = loader.get_single_node()
        finally:
            loader.dispose()
        return node
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refusal(name, line, f"not valid YAML: the character {_code_point(error)} must not stand here") from None
    except yaml.MarkedYAMLError as error:
        raise _refusal(name, *_syntax(error, text)) from None
    except RecursionError:
        raise _refusal(name, 1, "nested too deeply") from None


def _refusal(name: str, line: int, message: str) -> ConfigError:
    return ConfigError((Problem(name, line, printable(message)),))


def _code_point(error: yaml.reader.ReaderError) -> str:
    character = error.character
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


def _syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """Line and sentence for a syntax error, with YAML's usual traps said in plain words."""
    mark = error.problem_mark or error.context_mark
    line = _line_of(mark, text)
    words = ", ".join(part for part in (error.context, error.problem) if part)
    if "\t" in line[: len(line) - len(line.lstrip())]:
        words = "a tab stands where YAML wants spaces; replace it"
    elif address := _BARE_IPV6.search(line):
        words = f'put the address in quotes: "{address[1]}"'
    return (mark.line + 1 if mark else 1), f"not valid YAML: {words}"


def _line_of(mark: yaml.Mark | None, text: str) -> str:
    lines = text.split("\n")
    return lines[mark.line] if mark is not None and mark.line < len(lines) else ""


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


class _Reading:
    """One walk over the nodes of a document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._around: set[int] = set()  # nodes being read: an alias among them never ends
        self._count = 0

    def value(self, node: Node, path: Path) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _refusal(self._document.name, _line(node), f"more than {_MAX_VALUES} values")
        if id(node) in self._around:
            self._document.complain(path, "this alias stands inside what it names")
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self._document.complain(path, f"the tag {_tag(node)} has no meaning here; remove it")
            return None
        return self.mapping(node, path) if isinstance(node, MappingNode) else self._sequence(node, path)

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        self._around.add(id(node))
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merged |= self._merged(value_node, path)
                continue
            if not isinstance(key_node, ScalarNode):
                self._complain_at(key_node, path, "a key must be a plain word")
                continue
            key = key_node.value
            if key in first:
                self._complain_at(key_node, path, f'"{key}" stands here twice, first in line {first[key]}; remove one')
                continue
            first[key] = _line(key_node)
            self._document.lines[(*path, key)] = _line(key_node)
            values[key] = self.value(value_node, (*path, key))
        self._around.discard(id(node))
        return merged | values

    def _merged(self, node: Node, path: Path) -> dict[str, Any]:
        """What `<<: *alias` brings; with a list, earlier ones win."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            value = self.value(source, path) if isinstance(source, MappingNode) else None
            if value is None:
                self._complain_at(node, path, "<< takes an alias of a mapping, or a list of them")
                continue
            merged |= value
        return merged

    def _sequence(self, node: Node, path: Path) -> list[Any]:
        self._around.add(id(node))
        values = []
        for index, item in enumerate(node.value):
            self._document.lines[(*path, index)] = _line(item)
            values.append(self.value(item, (*path, index)))
        self._around.discard(id(node))
        return values

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        try:
            return _SCALARS[node.tag.removeprefix(_TAG)](node.value)
        except KeyError:
            self._document.complain(path, f"the tag {_tag(node)} has no meaning here; remove it")
        except ValueError:
            self._document.complain(path, f"{node.value!r} is not what its tag {_tag(node)} says")
        return None

    def _complain_at(self, node: Node, path: Path, message: str) -> None:
        self._document.problems.append(self._document.problem_in(_line(node), path, message))


def _tag(node: Node) -> str:
    return str(node.tag).replace(_TAG, "!!")


def _truth(text: str) -> bool:
    if text.lower() not in ("yes", "true", "on", "no", "false", "off"):
        raise ValueError(text)
    return text.lower() in ("yes", "true", "on")


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": _truth,
    "int": int,
    "float": float,
    "str": str,
    "merge": str,
    "value": str,
}


def _unfold(root: MappingNode, document: Document) -> MappingNode:
    """The short form as the full form; a full form as it is."""
    keys = {key.value for key, _ in root.value if isinstance(key, ScalarNode)}
    short = sorted(keys & _UNFOLDING_KEYS, key=SHORT_KEYS.index)
    if not short:
        return root
    full = sorted(keys & _FULL_KEYS)
    if full:
        words = "the short form (listen, mode, backends) and the full form (listeners, pools) do not mix"
        document.problems.append(Problem(document.name, _line(root), f'{words}; move "{short[0]}" into {full[0]}'))
        return _mapping(root, [pair for pair in root.value if pair[0].value not in _UNFOLDING_KEYS])
    document.short = True
    parts: dict[str, list[tuple[Node, Node]]] = {"listener": [], "pool": [], "rest": []}
    for key, value in root.value:
        name = key.value if isinstance(key, ScalarNode) else None
        part = "listener" if name in ("listen", "mode") else "pool" if name in SHORT_KEYS else "rest"
        parts[part].append((_word(key, "bind") if name == "listen" else key, value))
    parts["listener"].append((_word(root, "pool"), _word(root, SHORT_POOL)))
    listener = SequenceNode(f"{_TAG}seq", [_mapping(root, parts["listener"])], root.start_mark, root.end_mark)
    pool = _mapping(root, [(_word(root, SHORT_POOL), _mapping(root, parts["pool"]))])
    pairs = [(_word(root, "listeners"), listener), (_word(root, "pools"), pool), *parts["rest"]]
    return _mapping(root, pairs)


def _mapping(near: Node, pairs: list[tuple[Node, Node]]) -> MappingNode:
    return MappingNode(f"{_TAG}map", pairs, near.start_mark, near.end_mark)


def _word(near: Node, text: str) -> ScalarNode:
    return ScalarNode(f"{_TAG}str", text, near.start_mark, near.end_mark)

"""The pydantic models of lb.yaml, derived from the dataclasses of core/config.py.

Nothing about a single key is said here: name, type, default, bounds and documentation come from config_keys, so that
a new key of lb.yaml is one line in core/config.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING
from enum import Enum
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema

from lbproxy.control import config_values as values
from lbproxy.control.config_address import read_address
from lbproxy.control.config_keys import Key, keys_of
from lbproxy.control.config_spelling import bound, spell
from lbproxy.control.config_yaml import SHORT_KEYS
from lbproxy.core.config import Address, Algorithm, Backend, Balance, Config, Form, Listener, Pool, Unit

Reader = Callable[[object], Any]
Schema = dict[str, Any]

DIRECTORY = "directory"  # key of the validation context: where relative file names start


class Section(BaseModel):
    """A mapping in lb.yaml."""

    model_config = ConfigDict(extra="forbid")

    source: ClassVar[type[Any]]  # the dataclass that it becomes


_DURATION: Schema = {"type": ["number", "string"], "minimum": 0, "pattern": r"^([0-9.]+(ms|s|m|h|d))+$"}
_KINDS: dict[Any, tuple[Reader, Schema]] = {
    bool: (values.boolean, {"enum": [True, False, "on", "off", "yes", "no"]}),
    int: (values.whole, {"type": "integer"}),
    str: (values.text, {"type": "string"}),
    Unit.DURATION: (values.duration, _DURATION),
    Unit.WHOLE: (values.whole_duration, _DURATION),
    Unit.SIZE: (values.size, {"type": ["integer", "string"], "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB)$"}),
    Unit.RATIO: (values.ratio, {"type": ["number", "string"], "minimum": 0, "maximum": 1, "pattern": "^[0-9.]+%$"}),
    Form.NAME: (values.name, {"type": "string"}),
    Form.FILE: (values.text, {"type": "string"}),
    Form.CIDR: (values.cidr, {"type": "string"}),
    Form.HOST: (values.host, {"type": "string"}),
    Form.SERVER_NAME: (values.server_name, {"type": "string"}),
    Form.TARGET: (values.target, {"type": "string", "pattern": "^/"}),
    Form.TOKEN: (values.token, {"type": "string"}),
    Form.SOCKET: (values.socket_path, {"type": "string", "pattern": "^/"}),
    Address: (read_address, {"type": "string", "pattern": "^(unix:/.*|.*:[0-9]+)$"}),
    Balance: (
        values.balance,
        {
            "anyOf": [
                {"enum": [name.value for name in Algorithm if name not in values.KEYED]},
                *(
                    {
                        "type": "object",
                        "properties": {name.value: {"type": "string", "pattern": "^(remote_addr|uri|host|header:.+)$"}},
                        "required": [name.value],
                        "additionalProperties": False,
                    }
                    for name in values.KEYED
                ),
            ]
        },
    ),
}


class _WithoutTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """A title that repeats the key in capitals tells nobody anything."""
        return False


@cache
def full_form() -> type[Section]:
    """The model of a whole lb.yaml."""
    return _model("FullForm", Config, [_part("", key) for key in keys_of(Config)])


def json_schema() -> dict[str, Any]:
    """JSON Schema of lb.yaml in both forms."""
    listener = {key.name: key for key in keys_of(Listener)}
    own = {"listen": listener["bind"], "mode": listener["mode"]}
    own |= {key.name: key for key in keys_of(Pool) if key.name in SHORT_KEYS}
    rest = {key.name: key for key in keys_of(Config) if key.name not in ("listeners", "pools")}
    parts = [(name, *_part("", key)[1:]) for name, key in (own | rest).items()]
    short = _model("ShortForm", Config, parts)
    either: Any = Annotated[full_form() | short, Field(title="lb.yaml of lbproxy")]
    schema = TypeAdapter(either).json_schema(schema_generator=_WithoutTitles)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@cache
def _section(name: str, source: Any, default: Any) -> type[Section]:
    """The model of a section; a `default` overrides what its keys default to."""
    return _model(name, source, [_part(name, key, getattr(default, key.name, key.default)) for key in keys_of(source)])


def _model(name: str, source: type[Any], parts: list[tuple[str, Any, Any]]) -> type[Section]:
    doc = (source.__doc__ or "").partition("\n")[0]
    # A dataclass without a docstring gets its signature for one, which helps nobody here.
    doc = "" if doc.startswith(f"{source.__name__}(") else doc
    fields: dict[str, Any] = {key: (annotation, info) for key, annotation, info in parts}
    model: type[Section] = create_model(name, __base__=Section, __doc__=doc, **fields)
    model.source = source
    return model


def _part(parent: str, key: Key, default: Any = MISSING) -> tuple[str, Any, Any]:
    """Name, annotation and FieldInfo of one key."""
    default = key.default if default is MISSING else default
    annotation = _annotation(parent, key, default)
    if key.required:
        return key.name, annotation, Field(description=key.doc)
    if default is MISSING:
        return key.name, annotation, Field(None, description=f"{key.doc} Default: {key.otherwise}.")
    if key.section and not key.many:
        return key.name, annotation, Field(default_factory=_model_for(parent, key, default), description=key.doc)
    return key.name, annotation, Field(default, description=key.doc, json_schema_extra={"default": spell(key, default)})


def _annotation(parent: str, key: Key, default: Any) -> Any:
    single: Any = _single(parent, key, default)
    if key.section is Pool:
        named: Any = Annotated[str, PlainValidator(values.name), WithJsonSchema({"type": "string"})]
        return dict.__class_getitem__((named, single))
    if not key.many:
        return single
    several = list.__class_getitem__(single)
    if key.section:
        return several
    return Annotated[several, BeforeValidator(_listed, json_schema_input_type=single | several)]


def _single(parent: str, key: Key, default: Any) -> Any:
    """The annotation of one value, or of one element of a list."""
    if key.section:
        model: Any = _model_for(parent, key, default)
        if key.section is Backend:
            return Annotated[model, BeforeValidator(_backend, json_schema_input_type=str | model)]
        if key.many:
            return model
        if not key.optional:
            return Annotated[model, BeforeValidator(_or_empty, json_schema_input_type=model | None)]
        worded = BeforeValidator(partial(_worded, key), json_schema_input_type=Literal[key.word, False] | model | None)
        return Annotated[model | None, worded]
    reader, schema = _kind(key.kind)
    return Annotated[Any, PlainValidator(partial(_read, key, reader)), WithJsonSchema(_alternatives(key, schema))]


def _model_for(parent: str, key: Key, default: Any) -> type[Section]:
    source = key.section
    assert source is not None
    usual = key.many or key.optional or default == source()
    return _section(source.__name__ if usual else f"{parent}{key.name.title()}", source, None if usual else default)


def _kind(kind: Any) -> tuple[Reader, Schema]:
    if isinstance(kind, type) and issubclass(kind, Enum):
        words: list[Any] = [member.value for member in kind]
        spoken = {"on": True, "off": False}  # what YAML makes of these words
        return partial(values.choice, kind), {"enum": words + [spoken[word] for word in words if word in spoken]}
    if get_origin(kind) is Literal:
        names = list(get_args(kind))
        return partial(values.one_of, names), {"enum": names}
    return _KINDS[kind]


def _alternatives(key: Key, schema: Schema) -> Schema:
    """The schema of a value with its bounds and with the words that may stand for it."""
    if "type" in schema:
        bounds = {"minimum": key.minimum, "maximum": key.maximum}
        schema = schema | {name: bound for name, bound in bounds.items() if bound is not None}
    words: list[Any] = [{"const": key.word}] if key.word else []
    words += [{"const": False}] if key.word == "off" else []
    words += [{"type": "null"}] if key.optional and not key.word else []
    return {"anyOf": [schema, *words]} if words else schema


def _read(key: Key, reader: Reader, value: object, info: ValidationInfo) -> Any:
    """A single value, or what its word or null stands for."""
    if key.word and (value == key.word or (value is False and key.word == "off")):
        return None if key.optional else len(os.sched_getaffinity(0))
    if value is None and key.optional and not key.word:
        return None
    if key.kind is Form.FILE:
        return values.readable_file(value, (info.context or {}).get(DIRECTORY, ""))
    read = _with_word(key, reader, value)
    _check_bounds(key, value, read)
    return read


def _with_word(key: Key, reader: Reader, value: object) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        if key.word:
            raise ValueError(f"{error}; {key.word} is allowed, too") from None
        raise


def _check_bounds(key: Key, value: object, read: Any) -> None:
    advice = f"; {key.advice}" if key.advice else ""
    if key.minimum is not None and read < key.minimum:
        raise ValueError(f"{values.spoken(value)} is too small, the least is {bound(key, key.minimum)}{advice}")
    if key.maximum is not None and read > key.maximum:
        raise ValueError(f"{values.spoken(value)} is too large, the most is {bound(key, key.maximum)}")


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _backend(value: object) -> object:
    return value if isinstance(value, dict) else {"address": value}


def _or_empty(value: object) -> object:
    """A section in which every line is commented out is nothing to YAML."""
    return {} if value is None else value


def _worded(key: Key, value: object) -> object:
    """`off` as None. Nothing at all is not taken for it: that is a section with its lines commented out."""
    if value == key.word or value is False:
        return None
    return _or_empty(value)

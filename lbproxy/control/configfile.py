"""lb.yaml: from a file to a Config that works, or to every complaint at once.

    text ─► config_yaml: values and their lines ─► config_model: each value by itself ─┬─► Config
                                               └─► config_rules: what must hold between ┘    └─► config_warnings

Whatever is accepted here works: nothing is left to be found out when the first connection comes. Warnings are for what
works but will hurt.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from lbproxy.control import config_messages, config_rules
from lbproxy.control.check_tls import make_context
from lbproxy.control.config_host import Host, this_host
from lbproxy.control.config_model import DIRECTORY, Section, full_form
from lbproxy.control.config_problem import ConfigError, Loaded, Problem
from lbproxy.control.config_warnings import CERTIFICATES, warnings
from lbproxy.control.config_yaml import Document, read
from lbproxy.core.config import (
    CheckType,
    Config,
    HealthCheck,
    Listener,
    Mode,
    Pool,
)

__all__ = ["ConfigError", "Loaded", "Problem", "load", "loads"]

# A thousand backends with every key spelt out are 300 KB.
_MAX_FILE = 4 << 20


def load(path: str) -> Loaded:
    """Read and check a file. Raises ConfigError with everything that is wrong with it."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError((Problem(path, 0, f"cannot be read: {words}"),)) from None
    if len(content) > _MAX_FILE:
        raise ConfigError((Problem(path, 0, f"larger than {_MAX_FILE >> 20} MiB: this is no lb.yaml"),))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError((Problem(path, line, "not UTF-8 text; save the file as UTF-8"),)) from None
    return replace(loads(text, path, this_host()), sha256=hashlib.sha256(content).hexdigest())


def loads(text: str, name: str = "lb.yaml", host: Host | None = None) -> Loaded:
    """Check the text of a file; `name` stands in complaints, and relative file names start in its directory.

    Warnings tell what will hurt on a host, or, without one, anywhere.
    """
    document = read(text, name)
    model = _validate(document)
    config_rules.check(document)
    if model is None or document.problems:
        raise ConfigError(_in_order(document.problems))
    config = _config(model)
    _load_certificates(document, config)
    if document.problems:
        raise ConfigError(_in_order(document.problems))
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Loaded(config, warnings(document, config, host), name, sha256)


def _in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.line))


def _validate(document: Document) -> Section | None:
    context = {DIRECTORY: os.path.dirname(os.path.abspath(document.name))}
    try:
        return full_form().model_validate(document.data, context=context)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False):
            config_messages.complain(document, detail)
        return None


def _config(model: Section) -> Config:
    """The model as the dataclasses of core, with everything resolved that depends on something else."""
    timeouts: Section = model.timeouts  # type: ignore[attr-defined]
    listeners = tuple(_listener(listener, timeouts) for listener in model.listeners)  # type: ignore[attr-defined]
    tcp = {listener.pool for listener in listeners if listener.mode is Mode.TCP}
    pools = tuple(_pool(name, pool, name in tcp) for name, pool in model.pools.items())  # type: ignore[attr-defined]
    config: Config = _build(model, listeners=listeners, pools=pools)
    return config


def _listener(model: Section, timeouts: Section) -> Listener:
    merged = timeouts.model_copy(update=_given(model.timeouts))  # type: ignore[attr-defined]
    bind = tuple(model.bind)  # type: ignore[attr-defined]
    name = model.name or bind[0].text  # type: ignore[attr-defined]
    listener: Listener = _build(model, name=name, timeouts=_build(merged))
    return listener


def _given(model: Section) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.model_fields_set}


def _pool(name: str, model: Section, serves_tcp: bool) -> Pool:
    check: HealthCheck = _build(model.health_check)  # type: ignore[attr-defined]
    if check.type is None:
        check = replace(check, type=CheckType.HTTPS if serves_tcp else CheckType.HTTP)
    pool: Pool = _build(model, name=name, health_check=check)
    return pool


def _build(model: Section, **given: Any) -> Any:
    """The dataclass that a model was derived from."""
    names = (name for name in type(model).model_fields if name in model.source.__dataclass_fields__)
    return model.source(**{name: _plain(getattr(model, name)) for name in names if name not in given}, **given)


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return _build(value)
    return tuple(_plain(item) for item in value) if isinstance(value, list) else value


def _load_certificates(document: Document, config: Config) -> None:
    """Complain about files that exist but hold no certificate or key that fits."""
    for pool in config.pools:
        try:
            make_context(pool.health_check)
        except (OSError, ValueError) as error:
            names = [name for name in CERTIFICATES if getattr(pool.health_check, name) is not None]
            words = getattr(error, "reason", None) or error
            document.complain(
                ("pools", pool.name, "health_check", names[0]), f"{', '.join(names)}: cannot be used: {words}"
            )

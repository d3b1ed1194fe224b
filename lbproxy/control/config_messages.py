"""pydantic's findings in the operator's words."""

from __future__ import annotations

from pydantic_core import ErrorDetails

from lbproxy.control.config_keys import keys_of, places, section_at
from lbproxy.control.config_values import nearest, spoken
from lbproxy.control.config_yaml import SHORT_KEYS, Document, Path


def complain(document: Document, error: ErrorDetails) -> None:
    """Note one of pydantic's errors in the document, unless the same place has been complained about already."""
    path = document.written(tuple(step for step in error["loc"] if step != "[key]"))
    if document.is_spoiled(path):
        return
    match error["type"]:
        case "extra_forbidden":
            _unknown(document, path)
        case "missing":
            _missing(document, path)
        case "model_type" | "dict_type" | "model_attributes_type":
            document.complain(path, f"must be a mapping of `key: value` lines, not {spoken(error['input'])}")
        case "list_type":
            document.complain(path, f"must be a list, not {spoken(error['input'])}")
        case _:
            document.complain(path, error["msg"].removeprefix("Value error, "))


def _unknown(document: Document, path: Path) -> None:
    key = str(path[-1])
    known = _known(document, path[:-1])
    close = nearest(key, known)
    elsewhere = [place for place in places().get(key, ()) if place]
    if close:
        advice = f'did you mean "{close}"?'
    elif elsewhere:
        form = " of the full form" if document.short and not path[1:] else ""
        advice = f"it belongs in {' or '.join(elsewhere[:3])}{form}"
    else:
        advice = f"known here: {', '.join(known)}"
    document.complain(path, f"unknown key; {advice}")


def _known(document: Document, path: Path) -> list[str]:
    section = section_at(path)
    known = [key.name for key in keys_of(section)] if section else []
    if not path and document.short:
        return [*SHORT_KEYS, *(name for name in known if name not in ("listeners", "pools"))]
    return known


def _missing(document: Document, path: Path) -> None:
    section = section_at(path[:-1])
    doc = next((key.doc for key in keys_of(section) if key.name == path[-1]), "") if section else ""
    advice = " Or use the short form: listen, mode and backends." if len(path) == 1 else ""
    document.complain(path, f"required but missing. {doc}{advice}")

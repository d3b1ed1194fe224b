"""Applying patches: RFC 7396 merge patch, RFC 6902 JSON patch. Strategic merge and apply are read as merge patches."""

from __future__ import annotations

import copy
from typing import Any

from lbproxy.demo.status import ApiError


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: null removes, objects are merged, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif not key.startswith("$"):  # $setElementOrder and its like steer a strategic merge only
            result[key] = merge(result.get(key), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902 without move and copy. Raises `ApiError` (422) where an operation cannot be done."""
    result = copy.deepcopy(target)
    for operation in operations:
        try:
            _apply(result, operation["op"], _pointer(operation["path"]), operation.get("value"))
        except (KeyError, IndexError, TypeError, ValueError):
            raise ApiError("Invalid", f"the server rejected our request: cannot do {operation!r}") from None
    return result


def _pointer(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError(path)
    return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]


def _apply(document: Any, operator: str, steps: list[str], value: Any) -> None:
    for step in steps[:-1]:
        document = document[int(step)] if isinstance(document, list) else document[step]
    last: Any = steps[-1]
    if isinstance(document, list):
        last = len(document) if last == "-" else int(last)
        if operator == "add":
            document.insert(last, value)
            return
    if operator == "test":
        if document[last] != value:
            raise ValueError("test failed")
    elif operator == "remove":
        del document[last]
    elif operator == "replace":
        document[last]
        document[last] = value
    elif operator == "add":
        document[last] = value
    else:
        raise ValueError(operator)

"""Reading the few objects that `kubectl create` sends as protobuf, whatever we say we accept.

The body is `k8s\\0` and a runtime.Unknown {1: TypeMeta {1: apiVersion, 2: kind}, 2: the object}. Only kinds that
kubectl makes without a manifest are known here; everything else it sends as JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from lbproxy.demo.status import ApiError
from lbproxy.demo.store import Json

MAGIC = b"k8s\x00"


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: str = "text"
    """`text`, `number`, `map` (to text), `bytes_map` (base64 in JSON), or a message of `MESSAGES`."""


_METADATA = {
    1: Field("name"),
    2: Field("generateName"),
    3: Field("namespace"),
    5: Field("uid"),
    6: Field("resourceVersion"),
    11: Field("labels", "map"),
    12: Field("annotations", "map"),
}
_PRECONDITIONS = {1: Field("uid"), 2: Field("resourceVersion")}
MESSAGES: dict[str, dict[int, Field]] = {
    "ObjectMeta": _METADATA,
    "Preconditions": _PRECONDITIONS,
    "Namespace": {1: Field("metadata", "ObjectMeta")},
    "ServiceAccount": {1: Field("metadata", "ObjectMeta")},
    "ConfigMap": {1: Field("metadata", "ObjectMeta"), 2: Field("data", "map"), 3: Field("binaryData", "bytes_map")},
    "Secret": {1: Field("metadata", "ObjectMeta"), 2: Field("data", "bytes_map"), 3: Field("type")},
    "LeaseSpec": {
        1: Field("holderIdentity"),
        2: Field("leaseDurationSeconds", "number"),
        5: Field("leaseTransitions", "number"),
    },
    "Lease": {1: Field("metadata", "ObjectMeta"), 2: Field("spec", "LeaseSpec")},
    "DeleteOptions": {2: Field("preconditions", "Preconditions"), 4: Field("propagationPolicy")},
}


def decode(raw: bytes) -> Json:
    """The object as JSON. Raises `ApiError`: 415 for a kind not known here, 400 for what is no protobuf."""
    if not raw.startswith(MAGIC):
        raise ApiError("BadRequest", "provided data does not appear to be a protobuf message")
    try:
        envelope = dict(_fields(raw[len(MAGIC) :]))
        about = dict(_fields(_bytes(envelope[1])))
        kind = _bytes(about[2]).decode()
        if kind not in MESSAGES:
            raise ApiError("UnsupportedMediaType", f"{kind} is not known as protobuf: use application/json")
        body = {"kind": kind, "apiVersion": _bytes(about[1]).decode()}
        return {**_message(_bytes(envelope[2]), kind), **body}
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ApiError("BadRequest", f"the protobuf message is broken: {error!r}") from None


def _message(raw: bytes, kind: str) -> Json:
    result: Json = {}
    for number, value in _fields(raw):
        field = MESSAGES[kind].get(number)
        if field is None:
            continue
        if field.kind in ("map", "bytes_map"):
            entry = dict(_fields(_bytes(value)))
            item = _bytes(entry.get(2, b""))
            text = item.decode() if field.kind == "map" else base64.b64encode(item).decode()
            result.setdefault(field.name, {})[_bytes(entry[1]).decode()] = text
        elif field.kind == "number":
            result[field.name] = value
        elif field.kind in MESSAGES:
            result[field.name] = _message(_bytes(value), field.kind)
        elif value:  # Go writes strings that are not set as empty ones
            result[field.name] = _bytes(value).decode()
    return result


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError("a number where bytes belong")
    return value


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one message, as on the wire."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        size, at = _varint(raw, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + size > len(raw):
            raise ValueError("cut off")
        yield number, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at

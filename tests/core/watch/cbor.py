"""CBOR as the apiserver writes it: definite lengths, strings as byte strings, maps in any order."""

from __future__ import annotations

from struct import pack
from typing import Any

SELF_DESCRIBED = b"\xd9\xd9\xf7"


def head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    raise OverflowError


def encode(value: Any, *, text: bool = False) -> bytes:
    """`text`: strings as text strings."""
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case None:
            return b"\xf6"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case float():
            return b"\xfb" + pack(">d", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return head(3 if text else 2, len(data)) + data
        case bytes():
            return head(6, 22) + head(2, len(value)) + value
        case list():
            return head(4, len(value)) + b"".join(encode(item, text=text) for item in value)
        case dict():
            entries = (encode(key, text=text) + encode(item, text=text) for key, item in value.items())
            return head(5, len(value)) + b"".join(entries)
    raise TypeError(value)


def encode_event(event: dict[str, Any]) -> bytes:
    """With the tags around the event and around the object in it."""
    entries = []
    for key, value in event.items():
        entries.append(encode(key) + (SELF_DESCRIBED if key == "object" else b"") + encode(value))
    return SELF_DESCRIBED + head(5, len(event)) + b"".join(entries)

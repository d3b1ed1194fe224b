"""Watch events as protobuf, made by hand."""

from __future__ import annotations

from struct import pack

Fields = list[tuple[int, bytes | int]]


def varint(value: int) -> bytes:
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def message(fields: Fields) -> bytes:
    encoded = b""
    for number, value in fields:
        if isinstance(value, int):
            encoded += varint(number << 3) + varint(value)
        else:
            encoded += varint(number << 3 | 2) + varint(len(value)) + value
    return encoded


def frame(
    kind: bytes, metadata: bytes | None, *, magic: bytes = b"k8s\x00", encoding: bytes = b"", behind: bytes = b""
) -> bytes:
    body: Fields = [(2, b"spec"), (3, 7)]
    if metadata is not None:
        body.insert(0, (1, metadata))
    unknown = message([(1, message([(1, b"v1"), (2, b"Pod")])), (2, message(body)), (3, encoding), (4, b"")])
    event = message([(1, kind), (2, message([(1, magic + unknown)])), (7, behind)])
    return pack(">I", len(event)) + event


def metadata(version: bytes, annotations: dict[str, str] | None = None) -> bytes:
    entries: Fields = [
        (12, message([(1, key.encode()), (2, value.encode())])) for key, value in (annotations or {}).items()
    ]
    return message([(1, b"name"), (2, b""), (3, b"default"), (4, b""), (5, b"x" * 36), (6, version), (7, 0), *entries])

"""Watch events as protobuf: frames with their length in front, four bytes, big-endian.

What is in a frame, as kube-apiserver writes it (metav1.WatchEvent, runtime.RawExtension, runtime.Unknown):

    WatchEvent     1: type   2: RawExtension
    RawExtension   1: raw
    raw            `k8s` and a zero byte, then Unknown  1: TypeMeta   2: the object   3: content encoding
    the object     1: ObjectMeta, in every kind
    ObjectMeta     1: name … 5: uid   6: resourceVersion … 12: annotations

All on that way are fields with a length, so what is not looked for is jumped over: the cost does not depend on an
event's size. Go writes fields in the order of their numbers, so what is looked for is nearly always in the same place,
and is looked up there first. Python 3.11: 0.3 µs to see that an event is one, 3 µs to read its version, 8 µs the
general way.
"""

from __future__ import annotations

import re
from struct import Struct

from lbproxy.core.watch.progress import INITIAL_END, Phase
from lbproxy.core.watch.stream import MAX_EVENT, WatchStream

_LENGTH = Struct(">I").unpack_from
_MAGIC = b"k8s\x00"
_SIZES = {1: 8, 5: 4}  # of a fixed-size field's value, by wire type
_INITIAL_END = (INITIAL_END.encode(), b"true")

_ORDERED = Phase.ORDERED

# The numbers in front of what is inside are not checked one by one: all of it is as long as the frame says.
_BEGINNING = re.compile(
    rb"\n(?:\x05ADDED|\x08MODIFIED|\x07DELETED|\x08BOOKMARK)\x12[\x80-\xff]*+[\x00-\x7f]\n[\x80-\xff]*+[\x00-\x7f]"
    rb"k8s\x00\n([\x00-\x7f])",
    re.DOTALL,
).match
_DOWN_TO_METADATA = re.compile(rb"\x12[\x80-\xff]*+[\x00-\x7f]\n[\x80-\xff]*+[\x00-\x7f]", re.DOTALL).match

_TYPE = _RAW_EXTENSION = _RAW = _OBJECT_META = _KEY = 1
_EXTENSION = _OBJECT = _VALUE = 2
_ENCODING = 3
_RESOURCE_VERSION = 6
_VERSION_TAG = _RESOURCE_VERSION << 3 | 2
_ANNOTATIONS = 12


class ProtobufStream(WatchStream):
    """application/vnd.kubernetes.protobuf;stream=watch."""

    __slots__ = ()

    def is_event(self, data: bytes, pos: int, end: int) -> bool:
        return self._phase is _ORDERED and pos + 4 < end and _LENGTH(data, pos)[0] == end - pos - 4 and not self._held

    def _scan(self, data: bytes | bytearray, pos: int, end: int) -> int:
        while pos + 4 <= end:
            size: int = _LENGTH(data, pos)[0]
            if size > MAX_EVENT:
                self.lose()
                return end
            behind = pos + 4 + size
            if behind > end:
                break
            try:
                if self._phase is not _ORDERED or not self._quick(data, pos + 4, behind):
                    self._event(data, pos + 4, behind)
            except (ValueError, IndexError):
                self.lose()
                return end
            pos = behind
        return pos

    def _quick(self, data: bytes | bytearray, pos: int, end: int) -> bool:
        """Note an event in order whose fields are in order and short; False if it is not one."""
        found = _BEGINNING(data, pos, end)
        if found is None:
            return False
        found = _DOWN_TO_METADATA(data, found.end() + found[1][0], end)
        if found is None:
            return False
        pos = found.end()
        while pos + 2 <= end:
            tag, size = data[pos], data[pos + 1]
            pos += 2
            if tag == _VERSION_TAG:
                version = data[pos : pos + size]
                if not version.isdigit() or size >= 20:
                    return False
                self.events += 1
                self.advance(bytes(version))
                return True
            if tag & 7 != 2 or tag > _VERSION_TAG or size >= 0x80:
                return False
            pos += size
        return False

    def _event(self, data: bytes | bytearray, pos: int, end: int) -> None:
        """Raises ValueError or IndexError for what is no protobuf message with a type."""
        pos, kind_end = _find(data, pos, end, _TYPE)
        kind = bytes(data[pos:kind_end])
        metadata, metadata_end = _metadata(data, kind_end, end)
        at, at_end = _find(data, metadata, metadata_end, _RESOURCE_VERSION)
        version = bytes(data[at:at_end])
        marked = kind == b"BOOKMARK" and self._phase is Phase.MARKED and _is_initial_end(data, metadata, metadata_end)
        self.saw(kind, version if version.isdigit() and len(version) < 20 else None, marked=marked)


def _metadata(data: bytes | bytearray, pos: int, end: int) -> tuple[int, int]:
    """Where the ObjectMeta is of the object in an event from behind its type on; (end, end) if it has none."""
    pos, end = _find(data, pos, end, _EXTENSION)
    pos, end = _find(data, pos, end, _RAW)
    if data[pos : pos + 4] != _MAGIC:
        return end, end
    encoding, encoding_end = _find(data, pos + 4, end, _ENCODING)
    if encoding != encoding_end:
        return end, end
    pos, end = _find(data, pos + 4, end, _OBJECT)
    return _find(data, pos, end, _OBJECT_META)


def _is_initial_end(data: bytes | bytearray, pos: int, end: int) -> bool:
    while pos < end:
        pos, behind = _find(data, pos, end, _ANNOTATIONS)
        entry = []
        for number in (_KEY, _VALUE):
            start, stop = _find(data, pos, behind, number)
            entry.append(bytes(data[start:stop]))
        if tuple(entry) == _INITIAL_END:
            return True
        pos = behind
    return False


def _find(data: bytes | bytearray, pos: int, end: int, number: int) -> tuple[int, int]:
    """The first field of that number and its end, in a message in data[pos:end]; (end, end) if there is none.

    Raises ValueError when what is jumped over is no message.
    """
    wanted = number << 3 | 2
    while pos < end:
        tag = data[pos]
        pos += 1
        if tag >= 0x80:
            pos, tag = _varint(data, pos - 1)
        if tag & 7 == 2:
            size = data[pos]
            pos += 1
            if size >= 0x80:
                pos, size = _varint(data, pos - 1)
            if pos + size > end:
                raise ValueError("a field is longer than its message")
            if tag == wanted:
                return pos, pos + size
            pos += size
        elif tag & 7 == 0:
            pos, _ = _varint(data, pos)
        else:
            pos += _size(tag & 7)
    return end, end


def _size(wire_type: int) -> int:
    if wire_type not in _SIZES:
        raise ValueError("a group, or no field")
    return _SIZES[wire_type]


def _varint(data: bytes | bytearray, pos: int) -> tuple[int, int]:
    """The offset behind a number, and the number."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return pos, value
    raise ValueError("a number is too long")

"""What a process says to its successor, which may be of another version: primitive values by name, pickled.

An object's class is never in it, so nothing of one version has to be known to the other, and a stranger's bytes could
make nothing but values. What the names mean is numbered by FORMAT; it is counted up when a value that a successor
needs is added, or changes its meaning. Processes of different formats do not hand over: the older one drains.

Between workers: the successor says hello(), then come frames, each a header with the size of what follows and the
number of descriptors that come with the header (SCM_RIGHTS), then a packed mapping.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, NoReturn

FORMAT = 1
HEADER = struct.Struct("!IB")  # bytes that follow, descriptors
MAX_FRAME = 64 << 20  # bytes: a connection holds a watch's event of up to 4 MiB, and little else


def hello() -> bytes:
    """What a successor says first, of a fixed size."""
    return b"lbproxy handover %-6d\n" % FORMAT


def pack(state: dict[str, Any]) -> bytes:
    """Values of a mapping: None, bool, int, float, str, bytes, and tuples, lists and mappings of them."""
    return pickle.dumps(state, protocol=4)


def unpack(data: bytes) -> dict[str, Any]:
    """The mapping again. Raises ValueError for anything else."""
    try:
        state = _Values(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, AttributeError) as error:
        raise ValueError(f"not a state: {error}") from error
    if not isinstance(state, dict):
        raise ValueError("not a mapping")
    return state


class _Values(pickle.Unpickler):
    """Makes no objects."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} is no value")

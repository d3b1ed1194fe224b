"""What checks say of a backend."""

from __future__ import annotations

from enum import Enum


class Health(Enum):
    """The verdict of the health checks (the operator's word is `config.BackendState`)."""

    UNKNOWN = "unknown"
    UP = "up"
    NOT_READY = "not_ready"
    DOWN = "down"

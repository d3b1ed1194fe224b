"""Why a connection or request ended: HAProxy's two letters, who ended it and in which phase.

The first letter is who: C the client, S the backend, c a client-side timeout, s a backend-side timeout, P lbproxy
itself, R a limit of lbproxy, D the health checks, d drain_timeout, M rebalancing, K a shutdown, I a bug, - nobody: it
just ended.
The second is when: R reading the request, C connecting to a backend, H waiting for the response's head, D data,
- after everything was said. (HAProxy configuration manual, "Session state at disconnection".)
"""

from __future__ import annotations

from enum import Enum


class Termination(Enum):
    NORMAL = "--"
    CLIENT_ABORT_REQUEST = "CR"
    CLIENT_ABORT_HEAD = "CH"
    CLIENT_ABORT_DATA = "CD"
    CLIENT_TIMEOUT_REQUEST = "cR"
    CLIENT_TIMEOUT_DATA = "cD"
    BACKEND_REFUSED = "SC"
    BACKEND_TIMEOUT_CONNECT = "sC"
    BACKEND_CLOSED_HEAD = "SH"
    BACKEND_TIMEOUT_HEAD = "sH"
    BACKEND_ABORT_DATA = "SD"
    BACKEND_TIMEOUT_DATA = "sD"
    BAD_REQUEST = "PR"
    BAD_RESPONSE = "PH"
    BAD_BODY = "PD"
    NO_BACKEND = "PC"
    LIMIT = "RC"
    HELD_OFF = "RR"
    BACKEND_DEAD = "DD"
    BACKEND_DRAINED = "dD"
    REBALANCED = "MD"
    SHUTDOWN_DATA = "KD"
    INTERNAL = "ID"

"""A pool at run time, in one worker: its peers, and one walk of a connection or request through them."""

from __future__ import annotations

from lbproxy.core.config import Address, Backend, BackendState
from lbproxy.core.config import Pool as PoolConfig
from lbproxy.core.health import Health
from lbproxy.core.messages import BackendStats


class Peer: ...


class Pool: ...


class Selection: ...

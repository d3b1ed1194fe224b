from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from lbproxy.demo.server import SimulatedApiserver
from lbproxy.demo.store import Store


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def server(store: Store) -> AsyncIterator[SimulatedApiserver]:
    """An apiserver with an empty store, serving on a port of its own."""
    made = SimulatedApiserver(store, "a")
    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve)
        yield made
        nursery.cancel_scope.cancel()
    assert made.failures == []

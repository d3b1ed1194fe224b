from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.dataplane.harness import Lab


@pytest.fixture
async def lab(nursery: trio.Nursery) -> AsyncIterator[Lab]:
    laboratory = Lab(nursery)
    yield laboratory
    nursery.cancel_scope.cancel()
    laboratory.close()

from collections.abc import AsyncIterator

import pytest

from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from unit.operator.cluster import Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster without nodes and pools, where time passes as soon as somebody sleeps."""
    clock = FakeClock(runs_ahead=True)
    async with FakeApiServer(time=clock) as server:
        yield Cluster(server, clock)

"""Fixtures of tests that speak with the fake API server: import them in a conftest."""

from collections.abc import AsyncIterator

import pytest

from fakes import api_server
from fakes.clock import FakeClock
from som_api import kube


@pytest.fixture
def clock() -> FakeClock:
    """Time that passes as soon as somebody sleeps."""
    return FakeClock(runs_ahead=True)


@pytest.fixture
async def server(clock: FakeClock) -> AsyncIterator[api_server.FakeApiServer]:
    async with api_server.FakeApiServer(time=clock) as server:
        yield server


@pytest.fixture
async def client(server: api_server.FakeApiServer) -> AsyncIterator[kube.Client]:
    async with server.client() as client:
        yield client

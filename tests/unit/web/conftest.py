import pytest
from starlette import types

from fakes.fleet import FakeFleet
from fakes.reviewer import FakeReviewer
from som_api.web import app


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet(3)


@pytest.fixture
def reviewer() -> FakeReviewer:
    return FakeReviewer()


@pytest.fixture
def web(fleet: FakeFleet, reviewer: FakeReviewer) -> types.ASGIApp:
    return app.create(fleet, reviewer)

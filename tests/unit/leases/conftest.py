import pathlib

import pytest

from unit.leases.worlds import World


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    return World(tmp_path / "som.db")

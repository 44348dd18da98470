"""The hold's worker: what it says, and what is said of one that fails."""

import pathlib
import sys

import pytest

from som_device_plugin.drivers import worker
from som_device_plugin.linux import cgroups
from som_device_plugin.sources import hold


@pytest.fixture
def pool_hold(tmp_path: pathlib.Path) -> hold.Hold:
    hierarchy = cgroups.Hierarchy(root=tmp_path, version=2, others=())
    return hold.Hold(
        state_dir=tmp_path, pool="databases", hierarchy=hierarchy, page_bytes=2 * 2**20
    )


def test_a_worker_that_cannot_start_is_known_before_the_hold_is_locked(
    pool_hold: hold.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no such cgroup')"]
    monkeypatch.setattr(worker, "command", lambda *_arguments: failing)

    with pytest.raises(hold.HoldError, match="status 1: no such cgroup"), pool_hold.worker():
        pytest.fail("it has not started")

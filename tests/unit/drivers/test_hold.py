"""The hold's worker: what is said of one that fails."""

import pathlib
import sys

import pytest

from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import hold, worker
from som_device_plugin.linux import cgroups


@pytest.fixture
def pool_hold(tmp_path: pathlib.Path) -> hold.Hold:
    hierarchy = cgroups.Hierarchy(root=tmp_path, version=2, others=())
    return hold.Hold(
        state_dir=tmp_path, pool="databases", hierarchy=hierarchy, page_bytes=2 * 2**20
    )


def test_a_worker_that_does_not_end_is_not_waited_for(
    pool_hold: hold.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "command", lambda *_arguments: ["sleep", "600"])
    # Also how long the killed worker has to end, on a busy machine.
    monkeypatch.setattr(hold, "ANSWER_TIMEOUT_S", 0.3)
    with pytest.raises(seams.DriverError, match="by 4194304 bytes: its worker did not end within"):
        pool_hold._extend(4 * 2**20)


def test_a_worker_that_fails_says_why(
    pool_hold: hold.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no such cgroup')"]
    monkeypatch.setattr(worker, "command", lambda *_arguments: failing)
    with pytest.raises(seams.DriverError, match="status 1: no such cgroup"):
        pool_hold._extend(4 * 2**20)

"""The hold's worker: what it says, and what is said of one that fails."""

import pathlib
import sys

import pytest

from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import hold, worker
from som_device_plugin.linux import cgroups, hugepages


@pytest.fixture
def pool_hold(tmp_path: pathlib.Path) -> hold.Hold:
    hierarchy = cgroups.Hierarchy(root=tmp_path, version=2, others=())
    return hold.Hold(
        state_dir=tmp_path, pool="databases", hierarchy=hierarchy, page_bytes=2 * 2**20
    )


def test_a_worker_that_says_nothing_is_not_waited_for(
    pool_hold: hold.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(worker, "command", lambda *_arguments: silent)
    monkeypatch.setattr(hold, "ANSWER_TIMEOUT_S", 0.1)

    with pytest.raises(seams.DriverError, match="did not answer within"), pool_hold._worker():
        pytest.fail("it has not started")


def test_a_worker_that_stops_answering_is_not_waited_for(
    pool_hold: hold.Hold, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "holds" / "databases").mkdir(parents=True)
    hold.file_path(tmp_path, "databases").touch()
    started = [sys.executable, "-c", "import time; print('yes', flush=True); time.sleep(600)"]
    monkeypatch.setattr(worker, "command", lambda *_arguments: started)
    counts = hugepages.MachineCounts(total=9, free=9, surplus=0, reserved=0, overcommit=0)
    monkeypatch.setattr(hugepages, "machine_counts", lambda _page_bytes: counts)

    with pool_hold._worker() as process:
        monkeypatch.setattr(hold, "ANSWER_TIMEOUT_S", 0.1)
        with pytest.raises(seams.DriverError, match="asked for 4194304 bytes, did not answer"):
            pool_hold._extend(process, 4 * 2**20)
    assert process.returncode is not None, "it is gone"


def test_a_worker_that_cannot_start_is_known_before_the_hold_is_locked(
    pool_hold: hold.Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no such cgroup')"]
    monkeypatch.setattr(worker, "command", lambda *_arguments: failing)

    with pytest.raises(seams.DriverError, match="status 1: no such cgroup"), pool_hold._worker():
        pytest.fail("it has not started")

"""The worker that takes pages out of a hold, as far as it can be seen without huge pages."""

import fcntl
import pathlib
import signal

import pytest

from som_device_plugin.drivers.hugetlbfs import worker


def test_a_hold_that_somebody_keeps_locked_is_not_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_LOCK_TIMEOUT_S", 0.1)
    before = signal.getsignal(signal.SIGALRM)
    hold = tmp_path / "hold"
    hold.write_bytes(b"\0" * 8192)
    try:
        with hold.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(worker.NoPages, match="locked by another process"):
                worker._swap(str(hold), file.fileno(), 4096)
        assert hold.stat().st_size == 8192, "nothing was taken"
    finally:
        signal.signal(signal.SIGALRM, before)

"""The worker that takes pages out of a hold, as far as it can be seen without huge pages."""

import fcntl
import pathlib
import signal
import subprocess
import sys

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


def test_a_worker_loads_nothing_that_a_container_would_have_to_wait_for() -> None:
    """Each worker is a new interpreter without site-packages, at a container's start."""
    ours = "print(*sorted(name for name in sys.modules if name.startswith('som_')))"
    program = worker.command()[-1].partition("; os._exit")[0]
    printed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{program}; {ours}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.split() == [
        "som_device_plugin",
        "som_device_plugin.drivers",
        "som_device_plugin.drivers.hugetlbfs",
        "som_device_plugin.drivers.hugetlbfs.worker",
        "som_device_plugin.linux",
        "som_device_plugin.linux.mounts",
    ]

"""A lock that another process keeps is not waited for, and the process is named."""

import fcntl
import pathlib
import subprocess

import pytest

from som_device_plugin.linux import flocks


def test_who_keeps_a_lock_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lock"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        # The lock belongs to the open file, which the child has too.
        keeper = subprocess.Popen(["sleep", "600"], stdin=file)
    try:
        with path.open("wb") as file:
            with pytest.raises(flocks.LockHeld, match=r"locking the lock: .* because pid \d+"):
                flocks.take(file.fileno(), "the lock", timeout_s=0.05)
            keeper.kill()
            keeper.wait()
            flocks.take(file.fileno(), "the lock", timeout_s=0.05)
            assert flocks.holders(file.fileno()).startswith("pid ")
    finally:
        keeper.kill()
        keeper.wait()

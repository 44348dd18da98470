import os
import pathlib
import signal
import subprocess
import sys

from som_device_plugin.local import locks

HOLDER = (
    "import pathlib, sys; from som_device_plugin.local import locks; "
    "print(locks.take(pathlib.Path(sys.argv[1])) is not None, flush=True); sys.stdin.read()"
)


def test_a_lock_names_the_process_that_has_it_and_ends_with_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    assert locks.holder(path) == 0
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"True\n"
        assert locks.holder(path) == other.pid
        assert locks.take(path) is None
        other.send_signal(signal.SIGKILL)
    assert locks.holder(path) == 0
    mine = locks.take(path)
    assert mine is not None
    os.close(mine)


def test_what_is_not_there_has_no_holder_and_is_not_taken(tmp_path: pathlib.Path) -> None:
    assert locks.holder(tmp_path / "lock") == 0
    assert locks.take(tmp_path / "lock") is None
    assert list(tmp_path.iterdir()) == []

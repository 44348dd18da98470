import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from som_device_plugin.local import daemons, layout


@pytest.fixture
def sleeper(tmp_path: pathlib.Path) -> Iterator[daemons.Daemon]:
    """A daemon that does nothing, and has started."""
    daemon = daemons.Daemon("a sleeper", "sleeper", ("sleep", "60"), layout.StateDir(tmp_path))
    daemon.start()
    daemon.wait_until(lambda: pid(daemon) is not None)
    yield daemon
    daemon.stop()


def pid(daemon: daemons.Daemon) -> int | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((daemon.state_dir.path / "sleeper.pid").read_text())
    return None


def test_stopping_ends_the_process(sleeper: daemons.Daemon) -> None:
    assert sleeper.runs()
    sleeper.stop()
    assert not sleeper.runs()
    sleeper.stop()


def test_stopping_never_signals_a_later_process_with_the_same_pid(
    sleeper: daemons.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.pidfd_open
    other = subprocess.Popen(["sleep", "60"])

    def ends_and_its_pid_is_used_again(number: int) -> int:
        os.kill(number, signal.SIGKILL)
        while sleeper.runs():
            pass
        return opened(other.pid)

    monkeypatch.setattr(os, "pidfd_open", ends_and_its_pid_is_used_again)
    try:
        sleeper.stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_one_that_has_ended_says_its_last_words(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    daemon = daemons.Daemon("a speaker", "s", ("sh", "-c", "echo first; echo why"), state_dir)
    daemon.start()
    with pytest.raises(daemons.DaemonFailed, match=r"a speaker has ended: why; see .*/s.log"):
        daemon.wait_until(lambda: False)


def test_a_full_disk_is_named_where_no_words_could_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "ROOM_BYTES", 1 << 62)
    daemon = daemons.Daemon("a speaker", "s", ("false",), layout.StateDir(tmp_path))
    with pytest.raises(daemons.DaemonFailed, match=f"the disk of {tmp_path} is full .* make room"):
        daemon.check()

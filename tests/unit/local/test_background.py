"""The processes behind local mode, with small ones in their place."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from som_device_plugin.local import layout
from som_device_plugin.local.command import background

SLEEPER = (
    "import pathlib, sys, time; from som_device_plugin.local import locks; "
    "locks.take(pathlib.Path(sys.argv[1])); print(flush=True); time.sleep(60)"
)


@pytest.fixture
def state_dir(tmp_path: pathlib.Path) -> layout.StateDir:
    result = layout.StateDir(tmp_path)
    result.stand_in_lock.touch()
    return result


@pytest.fixture
def sleeper(state_dir: layout.StateDir) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the stand-in's lock."""
    command = [sys.executable, "-c", SLEEPER, str(state_dir.stand_in_lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def test_inside_the_block_it_has_ended_and_none_can_start(
    state_dir: layout.StateDir, sleeper: subprocess.Popen[bytes]
) -> None:
    with background.stopped(state_dir):
        assert sleeper.wait() == -signal.SIGTERM
    # There is nobody to stop now.
    with background.stopped(state_dir):
        command = [sys.executable, "-m", "som_device_plugin.local.stand_in.kubelet"]
        late = subprocess.run([*command, state_dir.path], capture_output=True, text=True)
        assert late.returncode == 1
        assert "another stand-in has" in late.stderr


def test_stopping_never_signals_a_later_process_with_the_same_pid(
    state_dir: layout.StateDir,
    sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = os.pidfd_open
    with subprocess.Popen(["sleep", "60"]) as other:

        def ends_and_its_pid_is_used_again(process: int) -> int:
            os.kill(process, signal.SIGKILL)
            sleeper.wait()
            return opened(other.pid)

        monkeypatch.setattr(os, "pidfd_open", ends_and_its_pid_is_used_again)
        with background.stopped(state_dir):
            assert other.poll() is None
        other.kill()


def test_the_processes_of_an_older_som_are_ended_and_nobody_elses(
    state_dir: layout.StateDir,
) -> None:
    command = [sys.executable, "-c", "print(flush=True); input()", str(state_dir.path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as older,
        subprocess.Popen(["sleep", "60"]) as other,
    ):
        assert older.stdout
        older.stdout.readline()
        (state_dir.path / "agent.pid").write_text(f"{older.pid}\n")
        (state_dir.path / "kubelet.pid").write_text(f"{other.pid}\n")
        with background.stopped(state_dir):
            assert older.wait() == -signal.SIGTERM
            assert other.poll() is None
        assert not list(state_dir.path.glob("*.pid"))
        other.kill()


def test_one_that_does_not_start_says_its_last_words(
    state_dir: layout.StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = state_dir.path / "python"
    script.write_text("#!/bin/sh\necho first; echo why\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    expected = r"the kubelet stand-in has ended: why; see .*/kubelet.log"
    with pytest.raises(background.ProcessFailed, match=expected):
        background.start(state_dir)


def test_a_full_disk_is_named_where_no_words_could_be_written(
    state_dir: layout.StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "ROOM_BYTES", 1 << 62)
    said = background.last_words(state_dir.agent_log)
    assert said.startswith(f"the disk of {state_dir.path} is full")
    assert said.endswith("make room")


def test_nobody_who_answers_is_no_agent(state_dir: layout.StateDir) -> None:
    assert background.agent(state_dir) is None

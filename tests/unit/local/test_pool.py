"""What `up` and `down` decide before and while they wait for the agent."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from som_device_plugin import database
from som_device_plugin.local import Wrong, daemons, layout
from som_device_plugin.local.command import output, place, pool
from som_device_plugin.sources.hugetlb import records


@pytest.fixture
def silent_agent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[layout.StateDir]:
    """An agent that lives and never reports."""
    state_dir = layout.StateDir(tmp_path)
    agent = daemons.Daemon("the agent", "agent", ("sleep", "60"), state_dir)
    monkeypatch.setattr(daemons, "agent", lambda _: agent)
    agent.start()
    yield state_dir
    agent.stop()


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    """Short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="som-") as directory:
        yield pathlib.Path(directory)


def wait(state_dir: layout.StateDir) -> None:
    pool._wait(
        lambda: None,
        state_dir,
        what="reserving demo",
        total_bytes=0,
        done_bytes=lambda: 0,
        out=output.Output(),
    )


def test_waiting_for_an_agent_that_says_nothing_is_told_and_ends(
    silent_agent: layout.StateDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pool, "WAIT_WORTH_SAYING_S", 0.0)
    monkeypatch.setattr(pool, "STALLED_S", 0.3)
    with pytest.raises(pool.Stalled, match=r"reserving demo: .* nothing new for .*agent.log"):
        wait(silent_agent)
    [line] = capsys.readouterr().err.splitlines()
    assert "reserving demo: waiting for the agent" in line


def test_waiting_for_an_agent_that_has_ended_ends_at_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(daemons.DaemonFailed, match="the agent has ended"):
        wait(layout.StateDir(tmp_path))


@pytest.mark.parametrize("there", [["kubelet", "cache"], ["lost+found"], ["kubelet"]])
def test_a_directory_with_files_of_others_is_refused(
    short_path: pathlib.Path, there: list[str]
) -> None:
    for name in there:
        (short_path / name).mkdir()
    with pytest.raises(Wrong, match=f"{short_path} is in use"):
        place.check_state_dir(short_path)


def test_a_directory_of_som_an_empty_one_and_a_missing_one_are_good(
    short_path: pathlib.Path,
) -> None:
    place.check_state_dir(short_path / "missing")
    place.check_state_dir(short_path)
    # What an agent of the first version left when it was killed.
    (short_path / ".status.json.4711").touch()
    place.check_state_dir(short_path)
    (short_path / "local.lock").touch()
    (short_path / "agent.log").touch()
    place.check_state_dir(short_path)


def test_a_disk_without_room_is_refused(
    short_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(short_path)._replace(free=4095)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for path in (short_path, short_path / "missing"):
        with pytest.raises(Wrong, match="only 4095 bytes free; make room"):
            place.check_state_dir(path)


def test_a_file_missing_to_the_one_that_works_alone_is_its_error(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    with (
        pytest.raises(FileNotFoundError, match="not there"),
        place.alone(state_dir, output.Output()),
    ):
        raise FileNotFoundError("not there")


def test_what_the_store_records_needs_an_agent_and_an_empty_one_does_not(
    tmp_path: pathlib.Path,
) -> None:
    state_dir = layout.StateDir(tmp_path)
    assert pool._holds_nothing(state_dir)
    (tmp_path / "som.db").touch()
    assert pool._holds_nothing(state_dir)
    with contextlib.closing(database.open_database(tmp_path / "som.db")) as connection:
        assert pool._holds_nothing(state_dir)
        kept = records.PageRecords(connection, boot_id="b")
        kept.add("demo", 2 << 20, {0: 0})
        assert not pool._holds_nothing(state_dir)
    assert not pool._holds_nothing(state_dir)
    (tmp_path / "som.db").write_bytes(b"noise" * 1000)
    assert not pool._holds_nothing(state_dir)

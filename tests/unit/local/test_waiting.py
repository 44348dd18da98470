"""What `up` and `down` decide before and while they wait for the agent."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from som_device_plugin import database
from som_device_plugin.local import Wrong, layout
from som_device_plugin.local.command import background, down, output, place, waiting
from som_device_plugin.sources.hugetlb import records


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    """Short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="som-") as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> list[background.Agent | None]:
    """What the stand-in says of the agent, which never reports; the last for ever."""
    answers: list[background.Agent | None] = [background.Agent(pid=1, ended=3)]
    monkeypatch.setattr(background, "start", lambda state_dir: answers[0])
    monkeypatch.setattr(background, "agent", lambda state_dir: answers[-1])
    return answers


def wait(path: pathlib.Path) -> None:
    waiting.wait(
        lambda status: status,
        layout.StateDir(path),
        generation=1,
        what="reserving demo",
        out=output.Output(),
    )


def test_waiting_for_an_agent_that_says_nothing_is_told_and_ends(
    agents: list[background.Agent | None],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(waiting, "WORTH_SAYING_S", 0.0)
    monkeypatch.setattr(waiting, "STALLED_S", 1.0)
    with pytest.raises(waiting.Stalled, match=r"reserving demo: .* nothing new for .*agent.log"):
        wait(tmp_path)
    [line] = capsys.readouterr().err.splitlines()
    assert "reserving demo: waiting for the agent" in line


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (background.Agent(pid=2, ended=4), "the agent has ended: it said nothing; see .*agent.log"),
        (None, "the kubelet stand-in has ended: it said nothing; see .*kubelet.log"),
    ],
)
def test_waiting_for_a_process_that_has_ended_ends_at_once(
    agents: list[background.Agent | None],
    tmp_path: pathlib.Path,
    now: background.Agent | None,
    expected: str,
) -> None:
    agents.append(now)
    with pytest.raises(background.ProcessFailed, match=expected):
        wait(tmp_path)


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
    assert down._holds_nothing(state_dir)
    (tmp_path / "som.db").touch()
    assert down._holds_nothing(state_dir)
    with contextlib.closing(database.open_database(tmp_path / "som.db")) as connection:
        assert down._holds_nothing(state_dir)
        kept = records.PageRecords(connection, boot_id="b")
        kept.add("demo", 2 << 20, {0: 0}, driver="HugeTLBFS")
        assert not down._holds_nothing(state_dir)
    assert not down._holds_nothing(state_dir)
    (tmp_path / "som.db").write_bytes(b"noise" * 1000)
    assert not down._holds_nothing(state_dir)

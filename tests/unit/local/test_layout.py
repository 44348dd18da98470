"""Whose a state directory may be."""

import os
import pathlib

import pytest

from som_device_plugin.local import Wrong, cli, layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
STRANGER = 1000


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    tmp_path.chmod(0o755)
    return tmp_path


def give_away(path: pathlib.Path) -> pathlib.Path:
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return path


def refused(path: pathlib.Path) -> str:
    with pytest.raises(Wrong) as wrong:
        layout.find(path)
    assert "choose" in str(wrong.value) or "make it" in str(wrong.value)
    return str(wrong.value)


def test_a_directory_of_root_is_found_also_one_to_be_made(place: pathlib.Path) -> None:
    assert layout.find(place).path == place
    assert layout.find(place / "new").path == place / "new"
    assert not (place / "new").exists()


def test_links_and_dots_are_followed_as_the_kernel_does(place: pathlib.Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    (place / "absolute").symlink_to(place / "a")
    (place / "relative").symlink_to("absolute/../a/b")
    for path in ("relative", "absolute/b", "a/b/../../absolute/b", "./a/b"):
        assert layout.find(place / path).path == place / "a" / "b"


def test_a_directory_of_somebody_else_is_refused(place: pathlib.Path) -> None:
    (place / "its").mkdir()
    give_away(place / "its")
    assert f"{place / 'its'} belongs to uid {STRANGER}" in refused(place / "its")
    (place / "its" / "roots").mkdir()
    assert f"{place / 'its'} belongs to uid {STRANGER}" in refused(place / "its" / "roots")


def test_a_link_of_somebody_else_is_refused_wherever_it_leads(place: pathlib.Path) -> None:
    (place / "roots").mkdir()
    (place / "link").symlink_to(place / "roots")
    give_away(place / "link")
    (place / "by").symlink_to("link/x")
    assert f"{place / 'link'} belongs to uid" in refused(place / "link")
    assert f"{place / 'link'} belongs to uid" in refused(place / "by")


def test_a_directory_that_others_may_write_is_refused(place: pathlib.Path) -> None:
    (place / "open" / "below").mkdir(parents=True)
    for mode in (0o775, 0o757, 0o777):
        (place / "open").chmod(mode)
        assert f"others than root can write to {place / 'open'}" in refused(place / "open")
        assert f"others than root can write to {place / 'open'}" in refused(
            place / "open" / "below"
        )


def test_below_a_directory_like_tmp_what_is_roots_is_good(place: pathlib.Path) -> None:
    (place / "tmp" / "below").mkdir(parents=True)
    (place / "tmp").chmod(0o1777)
    assert layout.find(place / "tmp" / "below").path == place / "tmp" / "below"
    assert "others than root can write to" in refused(place / "tmp")


def test_what_is_no_directory_or_has_none_above_it_is_refused(place: pathlib.Path) -> None:
    (place / "file").touch()
    (place / "loop").symlink_to("loop")
    assert "is no directory" in refused(place / "file")
    assert "is no directory" in refused(place / "file" / "x")
    assert f"{place / 'no'} does not exist; make it first" in refused(place / "no" / "x")
    with pytest.raises(Wrong, match="too many symbolic links"):
        layout.find(place / "loop")
    with pytest.raises(Wrong, match="not UTF-8"):
        layout.find(place / os.fsdecode(b"\xff"))


@pytest.mark.parametrize("command", ["up", "run", "status", "down"])
def test_no_command_opens_a_directory_of_somebody_else(
    place: pathlib.Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = place / "precious"
    precious.write_text("root's")
    its = place / "its"
    its.mkdir()
    (its / "local.lock").symlink_to(precious)
    give_away(its)
    more = {
        "up": ["-f", str(pathlib.Path(__file__).parents[3] / "examples" / "sompool.yaml")],
        "run": ["--request", "som.io/2Mi=1", "--", "true"],
    }
    arguments = ["local", command, "--state-dir", str(its), *more.get(command, [])]
    assert cli.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{its} belongs to uid {STRANGER}" in line
    assert precious.read_text() == "root's"
    assert [each.name for each in its.iterdir()] == ["local.lock"]

"""What a wrong command line is answered, and how scripts read the answer."""

import json
import os
import pathlib
import sys

import pytest

from som_device_plugin.linux import cgroups
from som_device_plugin.local import cli, units
from som_device_plugin.local.command import place, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the state directory must be root's")
RUN = ["local", "run", "--request", "som.io/2Mi=1"]


@pytest.mark.parametrize("arguments", [["local", "run", "--", "true"], ["local"], ["local", "x"]])
def test_a_command_that_is_none_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["local", "up", "-f", "none.yaml"], "none.yaml: cannot be read"),
        (["local", "run", "--request", "som.io/2Mi", "--", "true"], "write how many"),
        (["local", "run", "--request", "som.io/2Mi=abc", "--", "true"], "whole number"),
        ([*RUN, "--request", "som.io/2Mi=1", "--", "true"], "write their sum"),
        ([*RUN, "--user", "no-such-user", "--", "true"], "no user"),
        ([*RUN], "no program"),
        ([*RUN, "--state-dir", __file__, "--", "true"], "no directory"),
        (["local", "status", "--state-dir", "/proc/none/x"], "does not exist"),
        (["local", "down", "--state-dir", "/proc/none/x"], "does not exist"),
    ],
)
def test_a_wrong_argument_ends_with_2_and_one_line_in_text_and_in_json(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    text = capsys.readouterr()
    [line] = text.err.splitlines()
    assert line.startswith("som: ")
    assert expected in line
    assert text.out == ""

    assert cli.main([*arguments[:2], "--output", "json", *arguments[2:]]) == 2
    said = capsys.readouterr()
    ours, other = (said.err, said.out) if arguments[1] == "run" else (said.out, said.err)
    answer = json.loads(ours)
    assert (answer["event"], answer["exit_code"]) == ("error", 2)
    assert expected in answer["message"]
    assert other == ""


def test_what_the_kernel_forbids_is_one_line_that_names_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cgroups.Hierarchy(root=pathlib.Path("/nowhere"), version=2, others=())
    monkeypatch.setattr(place, "hierarchy", lambda: found)
    sompool = pathlib.Path(__file__).parents[3] / "examples" / "sompool.yaml"
    arguments = ["local", "up", "-f", str(sompool), "--state-dir", "/proc/som"]
    assert cli.main(arguments) in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert "/proc/som" in line


def test_without_a_pool_status_says_so_with_1_and_down_has_nothing_to_do_with_0(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--state-dir", str(tmp_path / "s")]
    assert cli.main(["local", "status", *at]) == 1
    assert f"no pool is up in {tmp_path / 's'}" in capsys.readouterr().out
    assert cli.main(["local", "status", *at, "--output", "json"]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["pools"] == []
    assert cli.main(["local", "down", *at, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"event": "down", "given_back_bytes": 0}
    assert not (tmp_path / "s").exists()


def test_a_wait_writes_nothing_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    waiting = run._Waiting(run.Order(["true"], units.Request("2Mi", 1), None))
    waiting.begin()
    waiting.stop()
    assert capsys.readouterr() == ("", "")

"""Shell completion: what kubectl and the shells ask, and what they get."""

import pytest

from som_kubectl import cli, completion
from unit.kubectl.conftest import Run

COMMANDS = {
    "completion",
    "explain",
    "leases",
    "must-gather",
    "nodes",
    "plan",
    "pools",
    "status",
    "top",
    "uninstall",
    "validate",
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster has one object of each kind."""
    monkeypatch.setattr(completion, "_names", lambda kind: [f"{kind}-1"] if kind else [])


def candidates(words: list[str]) -> tuple[list[str], int]:
    return completion.candidates(words, cli.parser(), cli.commands())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sta"], ["status"]),
        (["explain", "po"], ["pool/", "pod/"]),
        (["explain", "node/"], ["node/node-1"]),
        (["pools", ""], ["pool-1"]),
        (["nodes", "--pool", ""], ["pool-1"]),
        (["nodes", "--not"], ["--not-ready"]),
        (["top", ""], ["pools", "nodes", "pods"]),
        (["pools", "-o", ""], ["json", "yaml"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nonsense", ""], []),
    ],
)
def test_words_that_could_come_next(words: list[str], found: list[str]) -> None:
    assert candidates(words) == (found, completion.NO_FILES)


def test_every_command_is_offered() -> None:
    found, _ = candidates([""])
    assert {word for word in found if not word.startswith("-")} == COMMANDS


def test_files_are_completed_by_the_shell() -> None:
    assert candidates(["plan", "-f", ""]) == ([], completion.FILES)


def test_the_answer_ends_with_cobras_directive(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["__complete", "sta"]) == 0
    assert capsys.readouterr().out == "status\n:4\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(som: Run, shell: str) -> None:
    status, printed, _ = som("completion", shell)
    assert status == 0
    assert "kubectl-som __complete" in printed

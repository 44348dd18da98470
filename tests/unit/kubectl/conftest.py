import json
import pathlib
from collections.abc import Callable

import pytest

from som_kubectl import cli
from unit.kubectl.fleets import Fleet, Json

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def som(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `kubectl som`: exit status, and what it printed on standard output and error."""

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(words, fleet.kubectl)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def file(tmp_path: pathlib.Path) -> Callable[..., str]:
    """Write objects into a file; JSON is YAML."""

    def write(*objects: Json) -> str:
        path = tmp_path / "pools.yaml"
        path.write_text("\n---\n".join(json.dumps(item) for item in objects))
        return str(path)

    return write

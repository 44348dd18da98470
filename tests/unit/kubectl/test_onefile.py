"""The one-file kubectl-som: built twice it is the same, and it runs where nothing is installed.

The wheels here are empty: what they bring is tried where they can be downloaded, by
`make kubectl-som`.
"""

import pathlib
import runpy
import subprocess
import sys
import tarfile
import zipfile
from typing import Any

import pytest
import yaml

BUILD = pathlib.Path(__file__).parents[3] / "kubectl/onefile/build.py"
PLATFORM = "linux-amd64"
THIS = f"{sys.version_info[0]}{sys.version_info[1]}"


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(BUILD))


@pytest.fixture(scope="module")
def wheels(build: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder in which everything is downloaded already."""
    folder = tmp_path_factory.mktemp("wheels")
    locked = build["_locked"]((BUILD.parents[2] / "requirements.lock").read_text())
    natives = [(build["NATIVE"], python, PLATFORM) for python in build["PYTHONS"]]
    pure = [(name, "", "") for name in build["PURE"] if name != "pyyaml"]
    for name, python, platform in (*natives, *pure, ("pyyaml", build["PYTHONS"][0], PLATFORM)):
        version = locked[name].split()[0].partition("==")[2]
        place = folder / "-".join(filter(None, (name, version, python, platform)))
        place.mkdir()
        with zipfile.ZipFile(place / f"{name}.whl", "w") as wheel:
            wheel.writestr(f"{name}-here.py", f"{name} {python}")
    return folder


@pytest.fixture(scope="module")
def made(
    build: dict[str, Any], wheels: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("dist")
    build["build"](folder, wheels, platforms=(PLATFORM,))
    return folder


def _run(program: pathlib.Path, home: pathlib.Path, *words: str) -> str:
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-I", "-S", str(program), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_built_twice_it_is_the_same(
    build: dict[str, Any], made: pathlib.Path, wheels: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    build["build"](tmp_path, wheels, platforms=(PLATFORM,))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"kubectl-som-{PLATFORM}", f"kubectl-som-{PLATFORM}.tar.gz", "som.yaml"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_it_unpacks_once_what_belongs_to_this_python(
    made: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    program = made / f"kubectl-som-{PLATFORM}"
    for _ in range(2):
        assert _run(program, tmp_path, "--version").startswith("kubectl-som ")
    (unpacked,) = (tmp_path / ".cache/som").iterdir()
    assert (unpacked / "pydantic-core-here.py").read_text() == f"pydantic-core {THIS}"
    assert unpacked.stat().st_mode & 0o077 == 0


def test_it_runs_where_the_cache_cannot_be_written(
    made: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / ".cache").write_text("no folder")
    program = made / f"kubectl-som-{PLATFORM}"
    assert _run(program, tmp_path, "--version").startswith("kubectl-som ")


def test_called_by_kubectl_for_completion_it_completes(
    made: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    link = tmp_path / "kubectl_complete-som"
    link.symlink_to(made / f"kubectl-som-{PLATFORM}")
    assert _run(link, tmp_path, "sta") == "status\n:4\n"


def test_krew_finds_program_and_sum(made: pathlib.Path) -> None:
    manifest = yaml.safe_load((made / "som.yaml").read_text())
    (platform,) = manifest["spec"]["platforms"]
    assert platform["selector"] == {"matchLabels": {"os": "linux", "arch": "amd64"}}
    with tarfile.open(made / f"kubectl-som-{PLATFORM}.tar.gz") as archive:
        assert archive.getnames() == ["kubectl-som", "LICENSE"]
        assert archive.getmember("kubectl-som").mode == 0o755

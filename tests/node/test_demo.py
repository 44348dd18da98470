"""What a newcomer runs first: the demo and the example programs."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SOM = pathlib.Path(sys.executable).parent / "som"
DEMO = [sys.executable, str(EXAMPLES / "demo.py")]
LABELS = [
    "pool reserved",
    "lease ready",
    "mapped",
    "first touch",
    "zeroed",
    "one byte more",
    "preparation",
    "lease ready",
    "mapped",
    "first touch",
    "zeroed",
    "one byte more",
    "given back",
]


def test_the_demo_says_what_som_did_and_leaves_the_machine_as_it_was() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:13].strip() for line in lines] == LABELS
    assert "2147483648 bytes, 1024 pages, NUMA node 0" in lines[0]
    assert lines[2].endswith("1073741824 bytes at /dev/som in pages of 2048 KiB (/proc/self/smaps)")
    assert lines[5].endswith("ENOMEM")
    assert lines[10].endswith("every byte of this owner's memory is 0")


@pytest.mark.parametrize("after", ["pool reserved", "lease ready"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_the_machine_as_it_was(
    after: str, number: signal.Signals
) -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(after):
                demo.send_signal(number)
                break
        rest = demo.stdout.read()
        assert demo.wait() == 128 + number
    assert "given back" in rest


def test_without_root_the_demo_says_so_in_one_line() -> None:
    nobody = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    done = subprocess.run([*nobody, *DEMO], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "root" in line
    assert done.stdout == ""


@pytest.fixture
def local_pool() -> Iterator[list[str]]:
    """`som local run` with 64 MiB in a pool that is given back."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="som-"))
    at = ["--state-dir", str(directory / "s")]
    order = (EXAMPLES / "sompool.yaml").read_text().replace("2Gi", "128Mi")
    up = [str(SOM), "local", "up", *at, "-f", "-"]
    try:
        subprocess.run(up, input=order, text=True, check=True)
        yield [str(SOM), "local", "run", *at, "--request", "som.io/2Mi=32", "--"]
    finally:
        subprocess.run([SOM, "local", "down", "--force", *at], check=True)
        shutil.rmtree(directory)


def test_the_c_example_uses_all_of_its_memory(
    local_pool: list[str], tmp_path: pathlib.Path
) -> None:
    program = tmp_path / "map"
    subprocess.run(["gcc", "-O2", "-o", program, EXAMPLES / "map.c"], check=True)
    run = subprocess.run([*local_pool, program], capture_output=True, text=True, check=True)
    assert run.stdout == "67108864 bytes of huge pages, mine alone, first 42, last 42\n"


def test_the_python_example_uses_all_of_its_memory_with_numpy(local_pool: list[str]) -> None:
    program = [sys.executable, str(EXAMPLES / "map.py")]
    run = subprocess.run([*local_pool, *program], capture_output=True, text=True, check=True)
    first, numpy = run.stdout.splitlines()
    assert first == "67108864 bytes of huge pages, mine alone, first 42, last 42"
    assert numpy == "numpy: 8388608 numbers in som memory, sum 8388608"


def test_every_command_of_the_page_runs_as_it_is_written() -> None:
    page = (ROOT / "docs/how-to/work-without-kubernetes.md").read_text()
    commands = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[0]
    with tempfile.TemporaryDirectory(prefix="som-") as name:
        # A checkout whose `som` has a pool of its own, where every user can run what is compiled.
        checkout = pathlib.Path(name)
        checkout.chmod(0o755)
        (checkout / "examples").symlink_to(EXAMPLES)
        (checkout / ".venv" / "bin").mkdir(parents=True)
        som = checkout / ".venv" / "bin" / "som"
        som.write_text(f'#!/bin/bash\nexec {SOM} "$1" "$2" --state-dir {checkout}/s "${{@:3}}"\n')
        som.chmod(0o755)
        try:
            done = subprocess.run(
                ["bash", "-euc", commands], cwd=checkout, capture_output=True, text=True
            )
        finally:
            subprocess.run([som, "local", "down", "--force"], check=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("pool examples: 2Gi of 2Gi reserved")
    assert said[1:3] == 2 * ["134217728 bytes of huge pages, mine alone, first 42, last 42"]
    assert said[-1] == "2Gi given back to the machine"

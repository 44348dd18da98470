"""Who holds memory is found out from what processes choose: names and bytes of all kinds."""

import os
import pathlib
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

import pytest

from som_device_plugin.linux import processes

HOLDER = """
import ctypes, mmap, os, sys
ctypes.CDLL(None).prctl(15, b"\\xff\\xfe\\n(x", 0, 0, 0)
fd = os.open(os.fsencode(sys.argv[1]), os.O_RDWR)
memory = [mmap.mmap(fd, 4096) for _ in range(int(sys.argv[2]))]
files = [os.dup(fd) for _ in range(int(sys.argv[2]))]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """A process whose name and mapped file are no UTF-8; its pid and the file's superblock.

    As a parameter: how often it has mapped and opened the file, whose path is long.
    """
    many = getattr(request, "param", 1)
    file = tmp_path.joinpath(*["x" * 200] * 15, os.fsdecode(b"lat\xfdn"))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 4096)
    number = file.stat().st_dev
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file), str(many)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield process.pid, f"{os.major(number)}:{os.minor(number)}"


def test_a_holder_whose_name_and_files_are_no_text_is_named_in_printable_words(
    holder: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, device = holder
    monkeypatch.setattr(processes, "_MOST_NAMED", 10_000)
    [named] = [name for name in processes.holders(device) if f"pid {pid} " in name]
    assert named.startswith(f"pid {pid} (???(x): ")
    assert named.isascii() and named.isprintable()


def test_of_many_holders_some_are_named(
    holder: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_MOST_NAMED", 1)
    assert len(processes.holders(holder[1])) == 1


def test_a_name_is_cut_before_it_fills_a_message() -> None:
    assert processes.printable(b"/dev/vfio/" + b"x\n" * 4000) == "/dev/vfio/" + "x?" * 27


@pytest.mark.parametrize("holder", [300], indirect=True)
def test_a_process_with_long_lists_of_mappings_and_files_takes_no_memory_of_the_agents(
    holder: tuple[int, str],
) -> None:
    pid, device = holder
    process = pathlib.Path(f"/proc/{pid}")
    tracemalloc.start()
    try:
        assert set(processes._reasons(process, "255:255")) == set()
        assert set(processes._reasons(process, device)) == {"mapping", "open file"}
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()


def test_who_has_a_device_open_is_named_whatever_its_path(tmp_path: pathlib.Path) -> None:
    number = os.makedev(1, 7)
    node = tmp_path / "som"
    os.mknod(node, stat.S_IFCHR | 0o600, number)
    own = f"pid {os.getpid()} "
    assert not [name for name in processes.holders(node=number) if name.startswith(own)]
    with node.open("rb"):
        [named] = [name for name in processes.holders(node=number) if name.startswith(own)]
    assert named.endswith(": open file")

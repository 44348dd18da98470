"""The agent lives on, whatever strangers hold and whatever their names are."""

import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from node import local_node, machine
from node.conftest import Programs

UNITS = 8


@pytest.fixture
def state_dir() -> Iterator[pathlib.Path]:
    """A short one: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="som-") as path:
        yield pathlib.Path(path)


def test_a_pin_of_a_process_whose_name_is_no_text_is_reported_and_the_next_owner_starts(
    state_dir: pathlib.Path, program: Programs, tmp_path: pathlib.Path
) -> None:
    poison = tmp_path / os.fsdecode(b"\xff\xfe")
    shutil.copy(program("holder"), poison)
    with local_node.started(state_dir) as node:
        node.order(64 * local_node.MIB)
        node.start_agent()
        node.wait_pool(capacity="64Mi")
        owner = local_node.Program(node.state_dir, UNITS)
        assert owner.found() == f"zero {UNITS << 21}", node.log_text()
        [lease] = (state_dir / "leases").iterdir()
        command = [str(poison), str(lease / "som"), "io_uring", str(UNITS << 21)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as stranger:
            assert stranger.stdout and stranger.stdout.readline() == "ready\n"
            owner.end()
            named = f"pid {stranger.pid} (??): io_uring buffers"
            machine.wait_until(
                lambda: "LeaseHeld" in node.log_text() and named in node.log_text(),
                what="it is told",
                then=node.log_text,
            )
            assert node.agent and node.agent.poll() is None
            node.wait_pool(capacity="64Mi", free="62Mi")
            successor = local_node.Program(node.state_dir, UNITS)
            assert successor.found() == f"zero {UNITS << 21}", node.log_text()
            assert successor.end() == "kept"
        node.wait_pool(capacity="64Mi", allocated="0", free="64Mi")

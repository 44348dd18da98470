"""Fixtures of the suites: a lease of `som local`, on huge pages that are this test's alone."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from node import machine
from suites import watch

ROOT: Final = pathlib.Path(__file__).parents[2]
LIBRARY: Final = ROOT / "build/libsom/libsom.so"
SOM: Final = pathlib.Path(sys.executable).parent / "som"
UNITS: Final = 256


class Lease:
    """Runs programs in containers of `som local`, each with a new lease of UNITS times 2 MiB."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        self._at = ("--state-dir", str(state_dir))

    def run(
        self, words: Sequence[str | pathlib.Path], *, folder: pathlib.Path, limit_s: int = 120
    ) -> tuple[int, str, watch.Watch]:
        """The program's exit status, what it wrote to stdout and stderr, what it had of the lease.

        A program that has not ended within `limit_s` is killed.
        """
        run = (SOM, "local", "run", *self._at, "--request", f"som.io/2Mi={UNITS}", "--", *words)
        with (
            tempfile.TemporaryFile("w+", errors="replace") as output,
            subprocess.Popen(
                run,
                cwd=folder,
                env={**os.environ, "TERM": "dumb"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            with watch.Watch(process.pid).running() as seen:
                try:
                    status = process.wait(limit_s)
                except subprocess.TimeoutExpired:
                    process.kill()
                    status = process.wait()
            output.seek(0)
            # While the lease before this one is taken back, som local says that it waits.
            said = re.sub(r"^som: .*retrying\n", "", output.read(), flags=re.M)
            return status, said, seen

    def up(self) -> None:
        source = {"hugeTLB": {"pageSize": "2Mi"}}
        spec = {"unit": "2Mi", "capacity": f"{2 * UNITS}Mi", "source": source}
        pool = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool", "metadata": {"name": "suites"}}
        order = json.dumps({**pool, "spec": spec})
        up = (SOM, "local", "up", *self._at, "-f", "-")
        subprocess.run(up, input=order, text=True, check=True)

    def down(self) -> None:
        subprocess.run([SOM, "local", "down", *self._at, "--force"], check=True)


@pytest.fixture(scope="module")
def lease() -> Iterator[Lease]:
    # Short, for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="som-") as parent, machine.turn():
        made = Lease(pathlib.Path(parent) / "s")
        with contextlib.ExitStack() as undo:
            undo.callback(made.down)
            made.up()
            yield made


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """Where every user can read and write, not below root's own temporary directory."""
    with tempfile.TemporaryDirectory(prefix="suite-") as name:
        path = pathlib.Path(name)
        path.chmod(0o777)
        yield path

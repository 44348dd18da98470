"""Kills a process at a chosen system call, as a crash would: strace(1) does it, not our code."""

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Literal

_TESTS = pathlib.Path(__file__).parent.parent


def killing(
    call: str, when: Literal["before", "after"], *, nth: int = 1, path: pathlib.Path | None = None
) -> list[str]:
    """The start of a command line that kills the rest of it before or after its nth `call`.

    Only calls on `path` count, if one is given. A traced process does not die of SIGTERM before
    the system call has been done, and of SIGKILL it dies at once.
    """
    assert shutil.which("strace"), "strace is needed: apt-get install strace"
    signal = {"before": "SIGKILL", "after": "SIGTERM"}[when]
    only = ["-P", str(path)] if path else []
    traced = ["-e", f"trace={call}", "-e", f"inject={call}:signal={signal}:when={nth}"]
    return ["strace", "-f", "-qq", "-o", "/dev/null", *only, *traced]


def source(prefix: list[str], state_dir: pathlib.Path, *order: str) -> int:
    """Carry out `order` (see programs/source.py) in a process of its own; its exit status."""
    script = _TESTS / "node" / "programs" / "source.py"
    command = [*prefix, sys.executable, str(script), str(state_dir), *order]
    environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
    return subprocess.run(command, check=False, env=environment, timeout=180).returncode

"""The one exception of the harness, and the one way it runs commands."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class ClusterError(Exception):
    """Something of the test cluster did not do what it was asked for."""


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 1800,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its text output; raise ClusterError when it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=env,
            cwd=cwd,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"cannot run {words[0]}: it is not installed ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(words)}: no end after {timeout_s:.0f} s") from error
    if check and done.returncode != 0:
        raise ClusterError(
            f"{' '.join(words)}: exit status {done.returncode}\n"
            f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return done


def wait_until(what: str, probe: Callable[[], T], *, deadline_s: float, every_s: float = 0.2) -> T:
    """Ask `probe` until it returns something true, and return that.

    A ClusterError of the probe counts as "not yet"; the last one is told when time runs out.
    """
    end = time.monotonic() + deadline_s
    last: object = None
    while True:
        try:
            last = probe()
        except ClusterError as error:
            last = error
        else:
            if last:
                return last
        if time.monotonic() > end:
            raise ClusterError(f"waited {deadline_s:.0f} s for {what}; last seen: {last}")
        time.sleep(every_s)

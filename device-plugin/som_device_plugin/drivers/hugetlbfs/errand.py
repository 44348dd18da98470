"""A worker that is sent once and waited for."""

import contextlib
import subprocess
from collections.abc import Sequence

from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import worker


def run(
    command: Sequence[str], *, doing: str, timeout_s: float, descriptors: Sequence[int] = ()
) -> bool:
    """Run `command` (see `worker.command`), which inherits `descriptors`; False: no pages.

    Raises:
        DriverError: it failed, or did not end in time and is killed; begins with `doing`.
    """
    doing = f"{doing}: its worker"
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=descriptors
    )
    assert process.stdin and process.stderr
    with process.stdin, process.stderr:
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            # One that hangs in the kernel is left to the next agent.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
            raise seams.DriverError(
                f"{doing} did not end within {timeout_s:.0f} s; it is killed"
            ) from None
        if status not in (0, worker.EXIT_NO_PAGES):
            said = process.stderr.read().decode(errors="replace").strip()
            raise seams.DriverError(f"{doing} ended with status {status}: {said}")
    return status == 0

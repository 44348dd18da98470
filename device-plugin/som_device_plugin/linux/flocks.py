"""Advisory locks (flock(2)) that are never waited for without a limit."""

import contextlib
import fcntl
import os
import pathlib
import time
from typing import Final

from som_api import SomError
from som_device_plugin.linux import processes

_PAUSE_S: Final = 0.002


class LockHeld(SomError):
    """Somebody else kept the lock too long; says who."""


def take(fd: int, what: str, *, timeout_s: float) -> None:
    """Lock the open file `fd`, which is `what`, exclusively; closing it lets go.

    Raises:
        LockHeld: not within `timeout_s`; names the holders.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockHeld(
                    f"locking {what}: not within {timeout_s:.0f} s, because "
                    f"{holders(fd) or 'a process that cannot be seen from here'} has it locked; "
                    "end that process if it does not work any more"
                ) from None
            time.sleep(_PAUSE_S)
        else:
            return


def holders(fd: int) -> str:
    """Who has a lock on the file, as `pid 42 (postgres)` (proc(5), /proc/locks); "": nobody seen.

    The kernel shows the process that took the lock, in this PID namespace only.
    """
    status = os.fstat(fd)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = []
    for line in pathlib.Path("/proc/locks").read_text(errors="replace").splitlines():
        fields = line.split()
        # `1: FLOCK ADVISORY WRITE 42 00:1c:7 0 EOF`; who waits has an arrow: `1: -> FLOCK ...`.
        if len(fields) > 5 and fields[1] != "->" and fields[5] == device:
            found.append(f"pid {fields[4]}{_command(fields[4])}")
    return ", ".join(found)


def _command(process: str) -> str:
    with contextlib.suppress(OSError):
        name = pathlib.Path(f"/proc/{process}/comm").read_bytes().strip()
        return f" ({processes.printable(name)})"
    return ""

"""A lock that names its holder: a record lock of a whole file (F_SETLK and F_GETLK of fcntl(2)).

It ends with the process that took it, whatever ends that; no child inherits it. A process must not
open a file that it has locked once more: closing that would unlock it.
"""

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_FLOCK: Final = struct.Struct("hhqqi4x")


def take(path: Path) -> int | None:
    """A descriptor of `path`, locked until it is closed or this process ends; None where another
    process has it, or where there is no such file (any more).
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def holder(path: Path) -> int:
    """The pid of the process that has `path` locked; 0: none."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except FileNotFoundError:
        return 0
    kind, *_, process = _FLOCK.unpack(answer)
    return 0 if kind == fcntl.F_UNLCK else int(process)

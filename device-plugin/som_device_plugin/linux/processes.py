"""Who may hold memory, from /proc: best effort, for messages only (pins in pipes are invisible)."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Final

_PINNING_FILES: Final = ("/dev/vfio/", "/dev/infiniband/uverbs")


def holders(device: str | None) -> Sequence[str]:
    """Processes that map or have open a file of the superblock `device`, or can pin memory.

    Args:
        device: `major:minor`, None when it is not known: then only those that can pin.
    """
    names = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            reasons = set(_reasons(process, device))
            if reasons:
                command = (process / "comm").read_text().strip()
                names.append(f"pid {process.name} ({command}): {', '.join(sorted(reasons))}")
    return names


def _reasons(process: pathlib.Path, device: str | None) -> Iterator[str]:
    if device:
        major, minor = map(int, device.split(":"))
        mapped = f" {major:02x}:{minor:02x} "
        if any(mapped in line for line in (process / "maps").read_text().splitlines()):
            yield "mapping"
    for fd in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(fd.readlink())
            if target.startswith(_PINNING_FILES):
                yield target
            elif target == "anon_inode:[io_uring]":
                info = (process / "fdinfo" / fd.name).read_text()
                if any(_counts(line) for line in info.splitlines()):
                    yield "io_uring buffers"
            elif device and target.startswith("/"):
                number = fd.stat().st_dev
                if f"{os.major(number)}:{os.minor(number)}" == device:
                    yield "open file"


def _counts(line: str) -> bool:
    name, _, value = line.partition(":")
    return name == "UserBufs" and value.strip() not in ("", "0")

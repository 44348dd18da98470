"""Who may hold memory, from /proc: best effort, for messages only (pins in pipes are invisible).

What is read here, processes choose: names that are no text, files whose file system does not
answer, mappings and descriptors by the million. So it is read as bytes and piece by piece, and
called where it may take for ever (see `expendable`).
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Final

_PINNING_FILES: Final = ("/dev/vfio/", "/dev/infiniband/uverbs")
_MOST_NAMED: Final = 8
_MOST_REASONS: Final = 3
_LONGEST: Final = 64


def holders(device: str | None) -> Sequence[str]:
    """Processes that map or have open a file of the superblock `device`, or can pin memory.

    The first eight, in printable words.

    Args:
        device: `major:minor`, None when it is not known: then only those that can pin.
    """
    names: list[str] = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            reasons = set(_reasons(process, device))
            if reasons:
                command = printable((process / "comm").read_bytes().removesuffix(b"\n"))
                why = ", ".join(sorted(reasons)[:_MOST_REASONS])
                names.append(f"pid {process.name} ({command}): {why}")
        if len(names) == _MOST_NAMED:
            break
    return names


def printable(name: bytes) -> str:
    """The start of `name` for a message: what is no printable text is shown as `?`."""
    return re.sub(r"[^ -~]", "?", name[:_LONGEST].decode(errors="replace"))


def _reasons(process: pathlib.Path, device: str | None) -> Iterator[str]:
    if device:
        major, minor = map(int, device.split(":"))
        mapped = b" %02x:%02x " % (major, minor)
        with (process / "maps").open("rb") as lines:
            if any(mapped in line for line in lines):
                yield "mapping"
    with os.scandir(process / "fd") as entries:
        yield from _of_files(process, entries, device)


def _of_files(
    process: pathlib.Path, entries: Iterator[os.DirEntry[str]], device: str | None
) -> Iterator[str]:
    for fd in map(pathlib.Path, entries):
        with contextlib.suppress(FileNotFoundError):
            target = str(fd.readlink())
            if target.startswith(_PINNING_FILES):
                yield printable(os.fsencode(target))
            elif target == "anon_inode:[io_uring]":
                with (process / "fdinfo" / fd.name).open("rb") as lines:
                    if any(_counts(line) for line in lines):
                        yield "io_uring buffers"
            elif device and target.startswith("/"):
                number = fd.stat().st_dev
                if f"{os.major(number)}:{os.minor(number)}" == device:
                    yield "open file"


def _counts(line: bytes) -> bool:
    name, _, value = line.partition(b":")
    return name == b"UserBufs" and value.strip() not in (b"", b"0")

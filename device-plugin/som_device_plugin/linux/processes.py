"""Who may hold memory, from /proc: best effort, for messages only (pins in pipes are invisible).

What is read here, processes choose: names that are no text, files whose file system does not
answer, mappings and descriptors by the million. So it is read as bytes and piece by piece, and
called where it may take for ever (see `expendable`).
"""

import contextlib
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Final

_PINNING_FILES: Final = ("/dev/vfio/", "/dev/infiniband/uverbs")
_MOST_NAMED: Final = 8
_MOST_REASONS: Final = 3
_LONGEST: Final = 64


def holders(device: str | None = None, *, node: int | None = None) -> Sequence[str]:
    """Processes that map or have open a file of the superblock `device`, or can pin memory.

    The first eight, in printable words.

    Args:
        device: `major:minor`, None when it is not known: then only those that can pin.
        node: number of a character device (`os.makedev`), of which any file will do.
    """
    names: list[str] = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            reasons = set(_reasons(process, device, node))
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


def uses(process: pathlib.Path, node: int) -> bool:
    """Whether the process (its directory in /proc) has the character device `node` open or mapped.

    Raises:
        OSError: it has ended, or may not be looked at.
    """
    with os.scandir(process / "fd") as entries:
        return _maps(process, node) or "open file" in _of_files(process, entries, None, node)


def _reasons(process: pathlib.Path, device: str | None, node: int | None = None) -> Iterator[str]:
    if device:
        major, minor = map(int, device.split(":"))
        mapped = b" %02x:%02x " % (major, minor)
        with (process / "maps").open("rb") as lines:
            if any(mapped in line for line in lines):
                yield "mapping"
    if node is not None and _maps(process, node):
        yield "mapping"
    with os.scandir(process / "fd") as entries:
        yield from _of_files(process, entries, device, node)


def _maps(process: pathlib.Path, node: int) -> bool:
    """Whether it maps the device: a line shows the superblock of its file, whatever that is."""
    looked_at = set()
    with (process / "maps").open("rb") as lines:
        for line in lines:
            place, access, _, superblock, inode, *_ = line.split(maxsplit=5)
            file = superblock, inode
            if not access.endswith(b"s") or file in looked_at:
                continue
            looked_at.add(file)
            with contextlib.suppress(FileNotFoundError):
                if _is_node((process / "map_files" / place.decode()).stat(), node):
                    return True
    return False


def _is_node(found: os.stat_result, node: int) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == node


def _of_files(
    process: pathlib.Path,
    entries: Iterator[os.DirEntry[str]],
    device: str | None,
    node: int | None,
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
            elif (device or node is not None) and target.startswith("/"):
                found = fd.stat()
                if f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}" == device:
                    yield "open file"
                if node is not None and _is_node(found, node):
                    yield "open file"


def _counts(line: bytes) -> bool:
    name, _, value = line.partition(b":")
    return name == b"UserBufs" and value.strip() not in (b"", b"0")

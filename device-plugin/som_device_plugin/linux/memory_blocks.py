"""Memory blocks, the pieces in which RAM goes off line and on line.

Documentation/admin-guide/mm/memory-hotplug.rst. What a block is used for is read from a sample of
/proc/kpageflags (Documentation/admin-guide/mm/pagemap.rst).
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import struct
from typing import Final

from som_api import SomError
from som_device_plugin.linux import iomem

log = logging.getLogger(__name__)

_DIRECTORY: Final = pathlib.Path("/sys/devices/system/memory")
_PAGE_FLAGS: Final = pathlib.Path("/proc/kpageflags")
_PAGE_BYTES: Final = 4096
_SAMPLED_BYTES: Final = 2 * 2**20
_FREE: Final = 1 << 10
"""KPF_BUDDY"""

MOVABLE: Final = "Movable"
OFFLINE: Final = "offline"
_HOW: Final = {MOVABLE: "online_movable", "": "online"}


class MemoryBlockError(SomError):
    """The kernel has no memory blocks, or refused to change one."""


@dataclasses.dataclass(frozen=True)
class Block:
    """One block: bytes from `start`. `zone` is "" for one that is off line, or in several."""

    start: int
    size_bytes: int
    online: bool
    zone: str
    node: int


def block_bytes(directory: pathlib.Path = _DIRECTORY) -> int:
    """Size of every block of this machine."""
    return int(_read(directory / "block_size_bytes"), 16)


def blocks(
    within: iomem.Range | None = None, directory: pathlib.Path = _DIRECTORY
) -> tuple[Block, ...]:
    """The blocks there are, or those that begin `within` a range, by address."""
    size_bytes = block_bytes(directory)
    paths = directory.glob("memory[0-9]*")
    if within:
        # A large machine has thousands.
        numbers = range(-(-within.start // size_bytes), -(-within.end // size_bytes))
        paths = (directory / f"memory{number}" for number in numbers)
    found = []
    for path in paths:
        # One may be carved while it is read.
        with contextlib.suppress(FileNotFoundError):
            found.append(_block(path, size_bytes))
    return tuple(sorted(found, key=lambda block: block.start))


def on_adding(directory: pathlib.Path = _DIRECTORY) -> str:
    """What the kernel does with memory that is added, in the words of `state`."""
    return _read(directory / "auto_online_blocks").strip()


def set_on_adding(what: str, directory: pathlib.Path = _DIRECTORY) -> None:
    """Have the kernel do so from now on.

    Raises:
        MemoryBlockError: what the kernel answered.
    """
    path = directory / "auto_online_blocks"
    try:
        path.write_text(what)
    except OSError as error:
        raise MemoryBlockError(f"writing {what} to {path}: {error.strerror}") from error


def put_on_line(start: int, zone: str, directory: pathlib.Path = _DIRECTORY) -> None:
    """Have the block at `start` on line, in `zone` if that can be; so already is no error.

    One that the kernel has put into another zone by itself is moved over while it is still empty.

    Raises:
        MemoryBlockError: there is no such block, or what the kernel answered.
    """
    size_bytes = block_bytes(directory)
    path = directory / f"memory{start // size_bytes}"
    try:
        block = _block(path, size_bytes)
        if block.online and zone in ("", block.zone):
            return
        if block.online:
            (path / "state").write_text("offline")
        (path / "state").write_text(_HOW.get(zone, "online_kernel"))
    except OSError as error:
        if path.exists() and _block(path, size_bytes).online:
            log.warning("memory is in another zone", extra={"start": start, "zone": zone})
            return
        raise MemoryBlockError(
            f"putting memory block {path.name} on line: {error.strerror}"
        ) from error


def used_pages(start: int, size_bytes: int, flags: pathlib.Path = _PAGE_FLAGS) -> int:
    """How many of the range's 2 MiB pieces begin with a page that is not free; 0: cannot be told.

    A sample, to tell ranges that are much used from others.
    """
    used = 0
    with contextlib.suppress(OSError), flags.open("rb", buffering=0) as file:
        for address in range(start, start + size_bytes, _SAMPLED_BYTES):
            found = os.pread(file.fileno(), 8, address // _PAGE_BYTES * 8)
            used += len(found) == 8 and not struct.unpack("=Q", found)[0] & _FREE
    return used


def _block(path: pathlib.Path, size_bytes: int) -> Block:
    online = (path / "state").read_text().strip() == "online"
    zones = (path / "valid_zones").read_text().split()
    nodes = (re.fullmatch(r"node(\d+)", entry.name) for entry in path.iterdir())
    return Block(
        start=int((path / "phys_index").read_text(), 16) * size_bytes,
        size_bytes=size_bytes,
        online=online,
        zone=zones[0] if online and zones != ["none"] else "",
        node=next((int(found[1]) for found in nodes if found), -1),
    )


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise MemoryBlockError(
            f"reading {path}: {error.strerror}; a kernel with CONFIG_MEMORY_HOTREMOVE is needed"
        ) from error

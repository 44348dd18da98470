"""The mounts that this process sees (proc(5), /proc/pid/mountinfo)."""

import dataclasses
import pathlib
import re


@dataclasses.dataclass(frozen=True)
class Mount:
    """One line of mountinfo. `device` is `major:minor` of the superblock."""

    device: str
    root: str
    mountpoint: pathlib.Path
    fstype: str
    source: str
    super_options: frozenset[str]


def read(
    path: pathlib.Path = pathlib.Path("/proc/self/mountinfo"), *, fstype: str = ""
) -> list[Mount]:
    """All mounts, or those of `fstype` (the cheaper way), each mountpoint's topmost last."""
    # The kernel escapes line feeds in names, but nothing else that splitlines() splits at.
    lines = path.read_bytes().decode(errors="surrogateescape").split("\n")
    return [parse(line) for line in lines if line and (not fstype or f" - {fstype} " in line)]


def parse(line: str) -> Mount:
    """The mount of one line; raises ValueError for anything else."""
    before, _, after = line.partition(" - ")
    _id, _parent, device, root, mountpoint, *_ = before.split(" ")
    fstype, source, super_options = after.split(" ", 2)
    return Mount(
        device=device,
        root=_unescape(root),
        mountpoint=pathlib.Path(_unescape(mountpoint)),
        fstype=fstype,
        source=_unescape(source),
        super_options=frozenset(super_options.split(",")),
    )


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)

"""/proc/iomem: what the kernel says each physical address is, as a tree of ranges."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Final

from som_api import SomError

_PATH: Final = pathlib.Path("/proc/iomem")


class IomemError(SomError):
    """/proc/iomem cannot be read, or does not show addresses."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Bytes from `start` up to `end`, which is the first address behind them."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start

    def overlaps(self, other: "Range") -> bool:
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        """As /proc/iomem and an order write it, with the last address: `0x1000-0x1fff`."""
        return f"{self.start:#x}-{self.end - 1:#x}"


@dataclasses.dataclass(frozen=True)
class Resource(Range):
    """One line; `depth` is 0 for what lies in nothing else. Its children follow it."""

    name: str
    depth: int


def read(path: pathlib.Path = _PATH) -> tuple[Resource, ...]:
    """All resources in the kernel's order.

    Raises:
        IomemError: unreadable, or the reader lacks CAP_SYS_ADMIN, to whom all addresses are 0.
    """
    try:
        found = tuple(map(_parse, path.read_text().splitlines()))
    except OSError as error:
        raise IomemError(f"reading {path}: {error.strerror}; run as root") from error
    if not any(resource.end > 1 for resource in found):
        raise IomemError(f"{path} hides all addresses from this process: it needs CAP_SYS_ADMIN")
    return found


def without(whole: Range, taken: Sequence[Range]) -> Iterator[Range]:
    """The parts of `whole` that are in none of `taken`, by address."""
    start = whole.start
    for each in sorted(taken, key=lambda part: part.start):
        if each.end <= start or each.start >= whole.end:
            continue
        if each.start > start:
            yield Range(start, each.start)
        start = each.end
    if start < whole.end:
        yield Range(start, whole.end)


def _parse(line: str) -> Resource:
    addresses, _, name = line.partition(" : ")
    depth = (len(addresses) - len(addresses.lstrip(" "))) // 2
    start, _, last = addresses.strip().partition("-")
    return Resource(int(start, 16), int(last, 16) + 1, name=name, depth=depth)

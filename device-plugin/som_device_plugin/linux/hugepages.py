"""The kernel's counters of huge pages and memory.

Documentation/admin-guide/mm/hugetlbpage.rst; a write to a NUMA node's `nr_hugepages` is absolute
and counts persistent pages, a read counts surplus pages too.
"""

import dataclasses
import pathlib
from typing import Final

from som_api import SomError

_MACHINE: Final = pathlib.Path("/sys/kernel/mm/hugepages")
_NODES: Final = pathlib.Path("/sys/devices/system/node")
_MEMINFO: Final = pathlib.Path("/proc/meminfo")


class HugePagesError(SomError):
    """The kernel has no such huge pages, or refused a write to their counters."""


@dataclasses.dataclass(frozen=True)
class NodeCounts:
    """Huge pages of one size on one NUMA node, or of the machine."""

    total: int
    free: int
    surplus: int

    @property
    def persistent(self) -> int:
        """What was asked for; surplus pages leave by themselves when their user ends."""
        return self.total - self.surplus


@dataclasses.dataclass(frozen=True)
class MachineCounts(NodeCounts):
    """Huge pages of one size on the machine.

    The kernel counts these as one: a page that moves between NUMA nodes is never missing here, as
    it can be from a sum of nodes that are read one after the other.
    """

    reserved: int
    overcommit: int

    @property
    def available(self) -> int:
        """Free and promised to nobody."""
        return self.free - self.reserved


@dataclasses.dataclass(frozen=True)
class Memory:
    """/proc/meminfo: MemTotal, MemAvailable, and HardwareCorrupted."""

    total_bytes: int
    available_bytes: int
    corrupted_bytes: int


def page_sizes() -> frozenset[int]:
    """Sizes of huge pages that this kernel has, in bytes."""
    return frozenset(
        int(entry.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        for entry in _MACHINE.glob("hugepages-*kB")
    )


def nodes() -> tuple[int, ...]:
    """NUMA nodes that have memory, ascending."""
    numbers: list[int] = []
    for part in _read(_NODES / "has_memory").split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def node_counts(page_bytes: int, node: int) -> NodeCounts:
    """The counters of huge pages of `page_bytes` on `node`."""
    directory = _node_directory(page_bytes, node)
    return NodeCounts(
        total=int(_read(directory / "nr_hugepages")),
        free=int(_read(directory / "free_hugepages")),
        surplus=int(_read(directory / "surplus_hugepages")),
    )


def total_bytes() -> dict[int, int]:
    """Page size -> bytes of huge pages of this size on the machine, surplus pages included."""
    return {size: machine_counts(size).total * size for size in page_sizes()}


def machine_counts(page_bytes: int) -> MachineCounts:
    """The counters of huge pages of `page_bytes` that exist only for the whole machine."""
    directory = _MACHINE / f"hugepages-{page_bytes // 1024}kB"
    return MachineCounts(
        total=int(_read(directory / "nr_hugepages")),
        free=int(_read(directory / "free_hugepages")),
        surplus=int(_read(directory / "surplus_hugepages")),
        reserved=int(_read(directory / "resv_hugepages")),
        overcommit=int(_read(directory / "nr_overcommit_hugepages")),
    )


def write_persistent(page_bytes: int, node: int, pages: int) -> None:
    """Ask for `pages` persistent pages on `node`; the kernel may grant fewer without an error."""
    path = _node_directory(page_bytes, node) / "nr_hugepages"
    _write_pages(path, pages)
    excess = node_counts(page_bytes, node).persistent - pages
    if excess > 0:
        # Linux 6.1 adds the surplus of the other nodes (set_max_huge_pages in mm/hugetlb.c).
        _write_pages(path, max(pages - excess, 0))


def adopt_surplus(page_bytes: int, most: int) -> None:
    """Make surplus pages persistent, `most` at most; they are in use: this takes no memory."""
    counts = machine_counts(page_bytes)
    _write_pages(_of_machine(page_bytes), counts.persistent + min(counts.surplus, most))


def swap_surplus(page_bytes: int, most: int) -> bool:
    """Free pages of nobody in place of surplus pages, `most` at most: as many stay persistent.

    Where fewer pages of a node are free than are to leave it, the kernel makes pages in use there
    surplus, and keeps free ones elsewhere (set_max_huge_pages in mm/hugetlb.c). False: there are
    not both.
    """
    counts = machine_counts(page_bytes)
    if not counts.surplus or counts.available <= 0:
        return False
    adopt_surplus(page_bytes, most)
    _write_pages(_of_machine(page_bytes), counts.persistent)
    return True


def compact(node: int) -> None:
    """Have the kernel move pages together on `node` (vm.compact_memory of one node)."""
    path = _NODES / f"node{node}" / "compact"
    try:
        path.write_text("1")
    except OSError as error:
        raise HugePagesError(
            f"writing 1 to {path}: {error.strerror}; CONFIG_COMPACTION is needed"
        ) from error


def memory() -> Memory:
    """The machine's memory now."""
    fields = dict(line.split(":") for line in _read(_MEMINFO).splitlines())

    def kib(name: str) -> int:
        return int(fields.get(name, "0 kB").split()[0]) * 1024

    return Memory(
        total_bytes=kib("MemTotal"),
        available_bytes=kib("MemAvailable"),
        corrupted_bytes=kib("HardwareCorrupted"),
    )


def _write_pages(path: pathlib.Path, pages: int) -> None:
    try:
        path.write_text(str(pages))
    except OSError as error:
        raise HugePagesError(
            f"writing {pages} to {path}: {error.strerror}; the kernel cannot make such huge pages "
            "at run time: reserve them on its command line"
        ) from error


def _of_machine(page_bytes: int) -> pathlib.Path:
    return _MACHINE / f"hugepages-{page_bytes // 1024}kB" / "nr_hugepages"


def _node_directory(page_bytes: int, node: int) -> pathlib.Path:
    return _NODES / f"node{node}" / "hugepages" / f"hugepages-{page_bytes // 1024}kB"


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise HugePagesError(
            f"reading {path}: {error.strerror}; a kernel with CONFIG_HUGETLBFS and CONFIG_NUMA "
            "is needed"
        ) from error

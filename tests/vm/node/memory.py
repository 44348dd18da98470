"""The node's memory: a whole GiB of each kind that som.ko maps at once, all on NUMA node 1."""

from __future__ import annotations

from vm.memory import ABSENT, GIB, Range

NODES = ("1G", "9G")
TOTAL = "10G"
DEVDAX = Range(5 * GIB, GIB)
"""A device for devdax. The GiB before it is its driver's, for its books."""
RESERVED = Range(6 * GIB, GIB)
# Then 2 GiB of zone Normal: the kernel uses the first, and can make a huge page of the second.
CARVABLE = Range(9 * GIB, 2 * GIB)
"""On line, in zone Movable. The first GiB can be carved; the kernel's books of the node end it."""

APPEND = " ".join(
    [
        f"memmap={DEVDAX.bytes + GIB}!{DEVDAX.start - GIB}",
        *(f"memmap={each.bytes}${each.start}" for each in (RESERVED, ABSENT)),
        f"movablecore={CARVABLE.bytes}",
    ]
)

"""Memory of the guest that is not the kernel's, or can be taken from it: all on NUMA node 1."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Range:
    start: int
    bytes: int

    @property
    def written(self) -> str:
        """As `spec.source.external.ranges` has it."""
        return f"{self.start:#x}-{self.start + self.bytes - 1:#x}"


DEVDAX = Range(4 * GIB, GIB // 2)
"""A device for devdax; its driver keeps the beginning for its books."""
RESERVED = Range(4 * GIB + GIB // 2, GIB // 2)
CARVABLE = Range(5 * GIB, 2 * GIB)
"""On line, in zone Movable. The first GiB can be carved; the kernel's books of the node end it."""
WHOLE = Range(7 * GIB, 2 * GIB)
"""Reserved, too, for pages of 1 GiB."""
ABSENT = Range(16 * GIB, 2 * 2**20)
"""Reserved, with nothing behind it."""

NOT_THE_KERNELS = f"memmap={DEVDAX.bytes}!{DEVDAX.start} " + " ".join(
    f"memmap={each.bytes}${each.start}" for each in (RESERVED, WHOLE, ABSENT)
)
CAN_BE_CARVED = f"movablecore={CARVABLE.bytes}"
"""With NUMA nodes of 1 and 7 GiB."""

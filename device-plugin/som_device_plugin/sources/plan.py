"""The decisions of the HugeTLB source, pure: which node, how many pages, whose pages.

Pages are persistent huge pages (total minus surplus) of one size, counted per NUMA node.
"""

import dataclasses
from typing import Final

GIB: Final = 2**30


@dataclasses.dataclass(frozen=True)
class Guard:
    """What stays available for the rest of the node: the larger of a share and a floor."""

    percent: int = 10
    minimum_bytes: int = GIB

    def keep_bytes(self, *, total_bytes: int) -> int:
        """Bytes of MemAvailable that no growth may touch, on a node of `total_bytes`."""
        return max(total_bytes * self.percent // 100, self.minimum_bytes)

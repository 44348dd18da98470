"""Memory as a bar: how much of what was ordered is reserved, and how much of that is allocated."""

import dataclasses

from som_api.web.page import texts

FULL = 1000


@dataclasses.dataclass(frozen=True)
class Share:
    """A bar of `FULL` parts: `used` of `reserved`, the rest ordered only. `label` says it."""

    reserved: int
    used: int
    label: str


def share(capacity_bytes: int, allocated_bytes: int, ordered_bytes: int = 0) -> Share:
    """The bar of some memory; `ordered_bytes` counts where it is more than there is."""
    whole = max(capacity_bytes, ordered_bytes, 1)
    missing = max(0, ordered_bytes - capacity_bytes)
    label = f"{texts.amount(allocated_bytes)} of {texts.amount(capacity_bytes)} allocated"
    if missing:
        label += f", {texts.amount(missing)} more ordered"
    return Share(
        reserved=min(FULL, FULL * capacity_bytes // whole),
        used=min(FULL, FULL * allocated_bytes // whole),
        label=label,
    )


@dataclasses.dataclass(frozen=True)
class Sums:
    """Memory in bytes, added up."""

    capacity: int
    allocated: int
    free: int
    ordered: int

    @property
    def missing(self) -> int:
        """Ordered and not reserved."""
        return max(0, self.ordered - self.capacity)

    @property
    def percent(self) -> str:
        """What is allocated of the capacity."""
        return texts.percent(self.allocated, self.capacity)

    @property
    def share(self) -> Share:
        """The bar."""
        return share(self.capacity, self.allocated, self.ordered)


def part(some_bytes: int, whole_bytes: int) -> Share:
    """A bar that compares one of several parts with the largest."""
    width = FULL * some_bytes // max(1, whole_bytes)
    return Share(reserved=FULL, used=min(FULL, width), label=f"{texts.amount(some_bytes)} reserved")

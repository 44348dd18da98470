"""How a pool comes to its order, pure: which NUMA node, how many pages, and what stays the node's.

Pages are persistent huge pages (total minus surplus) of one size. Whose they are: `accounts`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Final

GIB: Final = 2**30
GUARDED: Final = "more would leave too little memory for the rest of the node"


@dataclasses.dataclass(frozen=True)
class Guard:
    """What stays available for the rest of the node: the larger of a share and a floor."""

    percent: int = 10
    minimum_bytes: int = GIB

    def keep_bytes(self, *, total_bytes: int) -> int:
        """Bytes of MemAvailable that no growth may touch, on a node of `total_bytes`."""
        return max(total_bytes * self.percent // 100, self.minimum_bytes)

    def refusal(self, *, available_bytes: int, total_bytes: int, largest_bytes: int) -> str:
        """Why a pool of more than `largest_bytes` cannot be, from what the node has."""
        return (
            f"the node has {human_bytes(available_bytes)} available of {human_bytes(total_bytes)}, "
            f"of which {human_bytes(self.keep_bytes(total_bytes=total_bytes))} stays for everybody "
            f"else (--guard-percent {self.percent}); the largest capacity now is "
            f"{human_bytes(largest_bytes - largest_bytes % GIB or largest_bytes)}"
        )


@dataclasses.dataclass(frozen=True)
class Step:
    """How many pages to add or take, on which NUMA node."""

    node: int
    pages: int


def even_shares(
    pages: int, nodes: Collection[int], *, last: Collection[int] = ()
) -> dict[int, int]:
    """`pages` split evenly over `nodes`, the rest to the lowest, and to those in `last` at last."""
    each, rest = divmod(pages, len(nodes))
    order = sorted(nodes, key=lambda node: (node in last, node))
    return {node: each + (index < rest) for index, node in enumerate(order)}


def next_growth(
    *, target: int, ours: Mapping[int, int], exhausted: Collection[int], most: int
) -> Step | None:
    """The next pages to add, or None: reached, or only exhausted nodes lack pages.

    A node that falls short is not made up for by others: the split is part of the order. Only what
    does not divide evenly may come from any.

    Args:
        target: pages of the pool on all nodes.
        ours: node -> pages of the pool now, with every node of the machine.
        exhausted: nodes that have no more to give.
        most: pages of one step.
    """
    shares = even_shares(target, ours.keys(), last=exhausted)
    missing = {node: shares[node] - ours[node] for node in ours if node not in exhausted}
    room = target - sum(ours.values())
    if room <= 0 or not missing:
        return None
    node = max(missing, key=lambda node: (missing[node], -node))
    pages = min(missing[node], room, most)
    return Step(node=node, pages=pages) if pages > 0 else None


def next_shrink(
    *, target: int, ours: Mapping[int, int], free: Mapping[int, int], hold: int, most: int
) -> Step | None:
    """The next pages to take away, or None: reached, or everything else is in use.

    Args:
        free: node -> free pages; of whom the kernel cannot say.
        hold: pages in the pool's hold; never more than these are taken.
    """
    excess = sum(ours.values()) - target
    shares = even_shares(target, ours.keys())
    takeable = {node: min(ours[node], free.get(node, 0)) for node in ours}
    candidates = [node for node in ours if takeable[node] > 0]
    if excess <= 0 or hold <= 0 or not candidates:
        return None
    node = max(candidates, key=lambda node: (ours[node] - shares[node], -node))
    over = max(ours[node] - shares[node], 0) or excess
    return Step(node=node, pages=min(over, excess, takeable[node], hold, most))


def shortfall(*, capacity_bytes: int, target_bytes: int, pages_bytes: int, reason: str) -> str:
    """Why leases can have less than `target_bytes` of a pool with `pages_bytes`; "": they can."""
    if capacity_bytes >= target_bytes:
        return ""
    if capacity_bytes < pages_bytes:
        reason = reason or "the rest is in use or reserved by other processes of the node"
    return (
        f"{human_bytes(capacity_bytes)} of {human_bytes(target_bytes)}: "
        f"{reason or 'not reserved yet'}"
    )


def human_bytes(value_bytes: int) -> str:
    """For messages, four digits: `37.5Gi`, `512Mi`."""
    if value_bytes >= GIB:
        return f"{value_bytes / GIB:.4g}Gi"
    return f"{value_bytes / 2**20:.4g}Mi"

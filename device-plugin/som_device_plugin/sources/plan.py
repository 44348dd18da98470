"""The decisions of the HugeTLB source, pure: which NUMA node, how many pages, whose pages.

Pages are persistent huge pages (total minus surplus) of one size, counted per NUMA node. The
kernel counts nobody's pages apart, so the source records how many are others' (foreign) and how
many each pool's. A write is preceded by a record of its intention; what the kernel made of it is
read off the total afterwards, by the next process if this one was killed.
"""

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence
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


def even_shares(pages: int, nodes: Collection[int]) -> dict[int, int]:
    """`pages` split evenly over `nodes`, the rest to the lowest."""
    each, rest = divmod(pages, len(nodes))
    return {node: each + (index < rest) for index, node in enumerate(sorted(nodes))}


def next_growth(
    *, target: int, ours: Mapping[int, int], exhausted: Collection[int], most: int
) -> Step | None:
    """The next pages to add, or None: reached, or only exhausted nodes lack pages.

    A node that falls short is not made up for by others: the split is part of the order.

    Args:
        target: pages of the pool on all nodes.
        ours: node -> pages of the pool now, with every node of the machine.
        exhausted: nodes that have no more to give.
        most: pages of one step.
    """
    shares = even_shares(target, ours.keys())
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


@dataclasses.dataclass(frozen=True)
class Share:
    """One pool's pages on one node; `intended` differs while a write may be under way."""

    pool: str
    pages: int
    intended: int


class Cause(enum.Enum):
    """Why pages are missing."""

    REWRITTEN = "rewritten by another program"
    MEMORY_ERROR = "lost to memory errors"


@dataclasses.dataclass(frozen=True)
class Settled:
    """Whose the pages of a node are. `write`, if any, is the total that restores the pools."""

    foreign: int
    shares: tuple[Share, ...]
    write: int | None = None
    cause: Cause | None = None


def settle(
    *,
    found: int,
    foreign: int | None,
    shares: Sequence[Share],
    surplus: int = 0,
    wish: int | None = None,
    corrupted: int = 0,
) -> Settled:
    """Whose the `found` pages of a node are.

    - Intentions: what exceeds `foreign` has come of them.
    - More than ours and foreign: others added pages.
    - Fewer, with as many as ours left and no page in use made surplus: others took some of their
      own away. Unless it is exactly their `wish`: then vm.nr_hugepages was applied again.
    - Fewer otherwise: the value found is what its writer wishes for himself, for he knows nothing
      of ours: that much is foreign, and ours has to come back. Unless the machine has lost that
      few pages to memory errors: then they are merely to be replaced.

    Args:
        foreign: others' pages as recorded, None when this node is seen for the first time.
        surplus: surplus pages of the node; a total below what is in use or reserved makes them.
        wish: what others had when nothing but their own setting could have made it.
        corrupted: base pages with memory errors; each costs a huge page at most.
    """
    if foreign is None:
        foreign = max(found - sum(share.pages for share in shares), 0)
    low = sum(min(share.pages, share.intended) for share in shares)
    high = sum(max(share.pages, share.intended) for share in shares)
    settled = _distribute(min(max(found - foreign, low), high), shares)
    ours = sum(share.pages for share in settled)
    missing = foreign + ours - found
    if missing <= 0:
        return Settled(foreign=found - ours, shares=settled)
    if ours == 0:
        return Settled(foreign=found, shares=settled)
    if found >= ours and surplus == 0 and found != wish:
        return Settled(foreign=found - ours, shares=settled)
    if missing <= corrupted:
        foreign, cause = min(foreign, found), Cause.MEMORY_ERROR
    else:
        foreign, cause = found, Cause.REWRITTEN
    there = _distribute(found - foreign, [Share(share.pool, 0, share.pages) for share in settled])
    return Settled(
        foreign=foreign,
        shares=tuple(
            Share(now.pool, now.pages, then.pages) for now, then in zip(there, settled, strict=True)
        ),
        write=foreign + ours,
        cause=cause,
    )


def _distribute(pages: int, shares: Sequence[Share]) -> tuple[Share, ...]:
    """The shares when there are `pages` in all: each within its bounds, the first ones first."""
    rest = pages - sum(min(share.pages, share.intended) for share in shares)
    settled = []
    for share in shares:
        low, high = sorted((share.pages, share.intended))
        extra = min(rest, high - low)
        rest -= extra
        settled.append(Share(share.pool, low + extra, low + extra))
    return tuple(settled)


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

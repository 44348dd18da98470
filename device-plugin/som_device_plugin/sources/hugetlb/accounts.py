"""Whose the huge pages of one size are, pure.

Theory of operation. The kernel counts huge pages and not their owners, and every program of root
may write the counters. Three kinds of owners share them:

- strangers: programs that know nothing of som. How many pages they have is on record.
- neighbours: pools of another som of this machine, with a state directory of its own. The kernel
  charges their pages to their cgroups, and so says how many they are.
- pools: ours, on record.

What happened is decided on the machine's sum. A page that moves to another NUMA node (mbind(2),
migrate_pages(2), cpusets; any container may do that) changes no sum, and so moves shares and causes
no write. Compared with strangers + neighbours + pools, the sum found is

- equal: nothing happened, or pages moved.
- more: strangers added the difference.
- less: pages were taken away. Never ours: they are reserved or in use, and the kernel makes surplus
  pages of such pages before it frees one. Which of three it was is a judgement, and is told:
  - as many were lost to memory errors: they are replaced.
  - somebody applied a setting (vm.nr_hugepages) that counts strangers' pages only. Signs: there are
    surplus pages, or fewer pages than som's own, or exactly the setting known. Strangers keep the
    number written, at most what they had, and the rest is added again on top.
  - strangers took pages of their own away, in all other cases. Nothing is written.

So the record of strangers grows only by pages that are there and that nobody else can have, and
nothing is ever added beyond what was on record: a wrong judgement cannot take memory twice.

A write follows the record of its intention: a pool's pages, and those intended. What came of it is
read off the sum, by the next process if this one was killed. Pages that a stranger adds between
that death and the next look cannot be told from the pool's own: `Settled.doubted` counts them.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Final

from som_device_plugin.sources.hugetlb import plan

_STRANGERS: Final = "(strangers)"
_NEIGHBOURS: Final = "(neighbours)"
"""Owners beside the pools, whose names have no brackets."""

Nodes = Mapping[int, int]
"""NUMA node -> pages."""


@dataclasses.dataclass(frozen=True)
class Share:
    """One pool's pages; `intended` differs from `pages` while a write may be under way."""

    pages: Nodes
    intended: Nodes

    @property
    def least(self) -> int:
        """How many pages the pool has at least, whatever came of the write."""
        return min(sum(self.pages.values()), sum(self.intended.values()))

    @property
    def most(self) -> int:
        """How many pages the pool has at most."""
        return max(sum(self.pages.values()), sum(self.intended.values()))

    @property
    def homes(self) -> Nodes:
        """Where its pages were or were about to be."""
        nodes = self.pages.keys() | self.intended.keys()
        return {node: max(self.pages.get(node, 0), self.intended.get(node, 0)) for node in nodes}


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What is on record of one page size. `strangers` is None before the first look.

    `setting` is what strangers had when last nothing but their own setting can have made it.
    """

    strangers: Nodes | None
    pools: Mapping[str, Share]
    setting: int = 0


@dataclasses.dataclass(frozen=True)
class Found:
    """What the kernel shows: persistent pages, those of neighbours among them.

    `total` is the machine's and exact; `nodes` are read one by one, while pages may move.
    `surplus` pages are in use beyond `total`. `lost` counts new memory errors, each of which costs
    a huge page at most.
    """

    total: int
    nodes: Nodes
    surplus: int = 0
    neighbours: int = 0
    lost: int = 0


class Cause(enum.Enum):
    """Why there are other pages than on record."""

    NONE = "as recorded"
    ADDED = "added by others"
    TAKEN = "taken away by others"
    REWRITTEN = "rewritten by another program"
    MEMORY_ERROR = "lost to memory errors"


@dataclasses.dataclass(frozen=True)
class Settled:
    """The new record, and what is to be done.

    `missing`: node -> pages to add now. `doubted`: how many pages that an interrupted write may
    have made were counted as the pools'.
    """

    ledger: Ledger
    cause: Cause
    missing: Nodes
    doubted: int


def settle(found: Found, ledger: Ledger) -> Settled:
    """Whose the pages found are; see the theory of operation above."""
    least = sum(share.least for share in ledger.pools.values())
    setting = ledger.setting
    if ledger.strangers is None:
        strangers = setting = max(found.total - found.neighbours - least, 0)
    else:
        strangers = sum(ledger.strangers.values())
    pools = _resolved(found.total - found.neighbours - strangers, ledger.pools)
    ours = sum(pools.values())
    cause = _cause(found, strangers=strangers, ours=ours, setting=setting)
    if cause in (Cause.ADDED, Cause.TAKEN):
        strangers = max(found.total - found.neighbours - ours, 0)
    elif cause is Cause.MEMORY_ERROR:
        strangers = min(strangers, found.total)
    elif cause is Cause.REWRITTEN:
        # Who wrote a single node has left pools' pages on the others: that sum is no setting.
        setting = min(max(setting, strangers), found.total)
        strangers = min(strangers, found.total)
    missing = max(strangers + found.neighbours + ours - found.total, 0)
    ledger, lacking = _shares(found, ledger, strangers, pools, missing)
    return Settled(
        ledger=dataclasses.replace(ledger, setting=setting),
        cause=cause,
        missing=lacking,
        doubted=ours - least,
    )


def _cause(found: Found, *, strangers: int, ours: int, setting: int) -> Cause:
    lack = strangers + found.neighbours + ours - found.total
    if lack <= 0:
        return Cause.ADDED if lack < 0 else Cause.NONE
    if not ours:
        return Cause.TAKEN
    if lack <= found.lost:
        return Cause.MEMORY_ERROR
    fewer_than_som_has = found.total < ours + found.neighbours
    if found.surplus or fewer_than_som_has or found.total == setting:
        return Cause.REWRITTEN
    return Cause.TAKEN


def _resolved(there: int, pools: Mapping[str, Share]) -> dict[str, int]:
    """Pool -> its pages when there are `there` in all: each within its bounds, in their order."""
    rest = max(there - sum(share.least for share in pools.values()), 0)
    resolved = {}
    for pool, share in pools.items():
        came = min(rest, share.most - share.least)
        rest -= came
        resolved[pool] = share.least + came
    return resolved


def _shares(
    found: Found, ledger: Ledger, strangers: int, pools: Mapping[str, int], missing: int
) -> tuple[Ledger, Nodes]:
    """These sums by node, and where som's owners lack the `missing` pages."""
    room = _agreeing(found.nodes, found.total)
    # What is charged to neighbours is there for sure, the pools' part only on record.
    som = {_NEIGHBOURS: found.neighbours, **pools}
    homes: dict[str, Nodes] = {pool: share.homes for pool, share in ledger.pools.items()}
    # On which nodes they are the kernel does not say; they were ordered evenly.
    homes[_NEIGHBOURS] = plan.even_shares(found.neighbours, room)
    there, rest = {_STRANGERS: strangers}, found.total - strangers
    for owner, pages in som.items():
        there[owner] = min(pages, max(rest, 0))
        rest -= there[owner]
    has = place(there, {_STRANGERS: ledger.strangers or {}, **homes}, room)
    intends = has
    if missing:
        whole = {node: sum(home.get(node, 0) for home in homes.values()) for node in room}
        intends = place(som, homes, whole)
    after = Ledger(
        strangers=has[_STRANGERS],
        pools={pool: Share(has[pool], intends[pool]) for pool in pools},
    )
    return after, _lacking([Share(has[owner], intends[owner]) for owner in som], missing)


def place(
    amounts: Mapping[str, int], homes: Mapping[str, Nodes], room: Nodes
) -> dict[str, dict[int, int]]:
    """Owner -> node -> pages: each owner at home as far as there is room, the rest elsewhere.

    Who comes first in `amounts` chooses first. Who has fewer pages than before has lost them on
    the nodes that have fewer.
    """
    before = {node: sum(home.get(node, 0) for home in homes.values()) for node in room}
    nodes = sorted(room, key=lambda node: before[node] - room[node])
    left = dict(room)
    placed = {owner: dict.fromkeys(room, 0) for owner in amounts}
    for wishes in (homes, dict.fromkeys(amounts, room)):
        for owner, amount in amounts.items():
            for node in nodes:
                rest = amount - sum(placed[owner].values())
                pages = min(wishes[owner].get(node, 0), left[node], rest)
                placed[owner][node] += pages
                left[node] -= pages
    return placed


def _agreeing(nodes: Nodes, total: int) -> dict[int, int]:
    """`nodes` corrected to sum up to `total`: pages moved while they were read."""
    agreeing = dict(nodes)
    for node in sorted(nodes, key=lambda node: -nodes[node]):
        agreeing[node] = max(agreeing[node] + total - sum(agreeing.values()), 0)
    return agreeing


def _lacking(shares: Iterable[Share], missing: int) -> dict[int, int]:
    """Node -> pages intended and not there, `missing` in all: pages that moved lack nowhere."""
    lacking: dict[int, int] = {}
    for share in shares:
        for node, intended in share.intended.items():
            pages = min(max(intended - share.pages[node], 0), missing)
            missing -= pages
            if pages:
                lacking[node] = lacking.get(node, 0) + pages
    return lacking

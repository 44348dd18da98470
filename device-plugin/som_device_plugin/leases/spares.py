"""Which memory to build ahead, and which start gets it. Pure decisions.

Theory of operation. A **spare** is a start whose lease has no ticket and no owner: free memory of
a pool, zeroed before anybody asks. What is wanted is a list of sizes on NUMA nodes, the most
important first: those that the SomPool names, or else what the pool's last starts had, as many as
ran at once. Of these, what fits into the free pages is built, one at a time, and only while no pod
waits.

A spare is ended when its size is not wanted any more, when a pod needs its pages for a start of
another size, or when the pool has to shrink; never for the sake of another spare, so that two
that do not fit beside each other are not built in turn for ever.

What a pod left for its successor is a spare, too: no start but the successor's gets it, it is never
built, and of all spares it is ended last.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.leases import decide, state

MOST_REMEMBERED: Final = 8
"""Sizes of a pool's last starts, which are kept warm if the SomPool does not say what."""

MOST_CUT: Final = 2
"""A spare at most so many times too large is cut, while there is free memory for the start: more
would have to be zeroed again than was used.
"""


@dataclasses.dataclass(frozen=True)
class Wish:
    """Memory that a start may ask for: so much, on this NUMA node."""

    size_bytes: int
    node: int | None


@dataclasses.dataclass(frozen=True)
class Spare:
    """One that is there, or under way."""

    lease_id: seams.LeaseId
    size_bytes: int
    node: int | None
    is_kept: bool = False

    @property
    def wish(self) -> Wish:
        return Wish(self.size_bytes, self.node)


History = tuple[tuple[Wish, int], ...]
"""What a pool's starts asked for, the newest last, and how many ran at once by then."""


def remember(history: History, wish: Wish, at_once: int) -> History:
    """`history` with a start that asks for `wish`, as one of so many."""
    others = tuple(past for past in history if past[0] != wish)
    return (*others[1 - MOST_REMEMBERED :], (wish, at_once))


def expected(history: History) -> list[Wish]:
    """What comes again: of each size one, the newest first, then the others that ran at once."""
    copies = [(copy, wish) for wish, at_once in history[::-1] for copy in range(at_once)]
    return [wish for _, wish in sorted(copies, key=lambda each: each[0])]


def named(warm: Iterable[v1alpha1.Warm], nodes: Sequence[int]) -> list[Wish]:
    """What a SomPool names, spread over its NUMA `nodes`."""
    return [
        Wish(each.size, nodes[at % len(nodes)])
        for each in warm
        if nodes
        for at in range(each.count)
    ]


def of_pool(leases: Iterable[state.Lease], pool: str, *states: state.State) -> list[Spare]:
    """The spares of `pool` that are to stay: in these states, or there and under way."""
    found = []
    for lease in leases:
        record = lease.live
        if not lease.is_spare or lease.ended or record is None or record.start.pool != pool:
            continue
        if not states or record.state in states:
            start = record.start
            found.append(
                Spare(lease.lease_id, start.size_bytes, start.preferred_node, lease.is_kept)
            )
    return found


def total_bytes(leases: Iterable[state.Lease], pool: str) -> int:
    """What is built ahead in `pool`, or being built, or kept."""
    return sum(spare.size_bytes for spare in of_pool(leases, pool))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to end now, and what to build next, if anything."""

    end: tuple[seams.LeaseId, ...] = ()
    build: Wish | None = None


def plan(
    wishes: Sequence[Wish],
    spares: Sequence[Spare],
    *,
    free_bytes: int,
    node_bytes: Mapping[int | None, int],
) -> Plan:
    """What brings `spares` closer to `wishes`, most important first.

    `free_bytes` are free in the pool, `node_bytes` on each of its NUMA nodes.
    """
    open_wishes = collections.Counter(wishes)
    end = []
    for spare in spares:
        if spare.is_kept:
            continue
        if open_wishes[spare.wish]:
            open_wishes[spare.wish] -= 1
        else:
            end.append(spare.lease_id)
    fitting = (
        wish
        for wish in wishes
        if open_wishes[wish] and wish.size_bytes <= min(free_bytes, node_bytes.get(wish.node, 0))
    )
    return Plan(tuple(end), next(fitting, None))


def choose(
    spares: Sequence[Spare], *, size_bytes: int, node: int | None, free_bytes: int
) -> Spare | None:
    """The spare for a start: the smallest that has its size, on its NUMA node."""
    large_enough = (s for s in spares if s.node == node and s.size_bytes >= size_bytes)
    best = min(large_enough, key=lambda s: (s.size_bytes, s.lease_id), default=None)
    if best and best.size_bytes > MOST_CUT * size_bytes and free_bytes >= size_bytes:
        return None
    return best


def make_room(spares: Sequence[Spare], missing_bytes: int) -> tuple[Spare, ...]:
    """Those to end so that `missing_bytes` become free, none of them in vain; () if all are less.

    What is kept only as far as all others are not enough.
    """
    if sum(spare.size_bytes for spare in spares) < missing_bytes:
        return ()
    others = [spare for spare in spares if not spare.is_kept]
    others_bytes = sum(spare.size_bytes for spare in others)
    kept = _enough((s for s in spares if s.is_kept), missing_bytes - others_bytes)
    return (*_enough(others, missing_bytes - sum(s.size_bytes for s in kept)), *kept)


def _enough(spares: Iterable[Spare], missing_bytes: int) -> list[Spare]:
    """Of `spares`, which are enough: the smallest that is alone, else the largest ones."""
    ascending = sorted(spares, key=lambda s: (s.size_bytes, s.lease_id))
    chosen: list[Spare] = []
    while missing_bytes > 0:
        enough = (spare for spare in ascending if spare.size_bytes >= missing_bytes)
        spare = next(enough, ascending[-1])
        ascending.remove(spare)
        chosen.append(spare)
        missing_bytes -= spare.size_bytes
    return chosen


def left_for(
    lease: state.Lease, leases: Iterable[state.Lease], *, now_s: float
) -> state.Lease | None:
    """What the container before left for the bound `lease`, at its first start."""
    left = (each for each in leases if decide.is_successor(lease, each))
    return next((each for each in left if not _is_over(each, now_s)), None)


def in_vain(leases: Sequence[state.Lease], *, now_s: float) -> list[seams.LeaseId]:
    """What is kept for nobody: its time is over, or the successor has other memory."""
    return [
        lease.lease_id
        for lease in leases
        if lease.is_kept and not lease.ended
        if _is_over(lease, now_s) or decide.is_succeeded(lease, leases)
    ]


def _is_over(lease: state.Lease, now_s: float) -> bool:
    return lease.kept_until_s is not None and lease.kept_until_s <= now_s

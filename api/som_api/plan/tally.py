"""How one pool stands on all its nodes: in groups and sums. No I/O.

A pool's status is told each second while nodes report, and only few of thousands changed since:
groups and sums are kept, and one node is put in for what it was before.
"""

import collections
import enum
import heapq
from collections.abc import Mapping

from som_api.plan.reports import PoolOnNode, State


class Silent(enum.Enum):
    """Nodes that report nothing, whatever the state of the pool there."""

    UNREACHABLE = enum.auto()
    UNSERVED = enum.auto()
    """They have lost their agent."""


Group = State | Silent
"""Every node is in one: RELEASING are those that the pool leaves, all others are its matches."""


class Tally:
    """`on_nodes` says how the pool stands, by node; memory is in bytes.

    `rivals` are the pools that want the same unit, and on how many nodes each.
    """

    def __init__(self, on_nodes: Mapping[str, PoolOnNode] | None = None) -> None:
        self._on_nodes: dict[str, PoolOnNode] = {}
        self._groups: dict[Group, set[str]] = {group: set() for group in (*State, *Silent)}
        self.capacity_bytes = 0
        self.allocated_bytes = 0
        self.rivals: collections.Counter[str] = collections.Counter()
        for node, here in (on_nodes or {}).items():
            self.put(node, here)

    @property
    def on_nodes(self) -> Mapping[str, PoolOnNode]:
        return self._on_nodes

    def put(self, node: str, here: PoolOnNode | None) -> None:
        """The pool stands so on `node` now; None: it is there no more."""
        before = self._on_nodes.pop(node, None)
        if before is not None:
            self._groups[_group(before)].remove(node)
            self._add(before, -1)
        if here is not None:
            self._on_nodes[node] = here
            self._groups[_group(here)].add(node)
            self._add(here, 1)

    def count(self, *groups: Group) -> int:
        """How many nodes are in these groups."""
        return sum(len(self._groups[group]) for group in groups)

    def first(self, group: Group, most: int) -> list[str]:
        """The first nodes of a group by name, at most so many."""
        return heapq.nsmallest(most, self._groups[group])

    def _add(self, here: PoolOnNode, times: int) -> None:
        self.capacity_bytes += times * here.capacity_bytes
        self.allocated_bytes += times * here.allocated_bytes
        for rival in here.rivals:
            self.rivals[rival] += times
            if not self.rivals[rival]:
                del self.rivals[rival]


def _group(here: PoolOnNode) -> Group:
    if here.state in (State.RELEASING, State.CONFLICTED):
        return here.state
    if not here.kubelet_ready:
        return Silent.UNREACHABLE
    return Silent.UNSERVED if here.agent_lost else here.state

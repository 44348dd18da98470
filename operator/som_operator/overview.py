"""How every pool stands on every node, as last planned, and the Events that changes cause."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from som_api import v1alpha1
from som_api.plan.reports import PoolOnNode, State
from som_api.plan.tally import Tally


@dataclasses.dataclass(frozen=True, slots=True)
class News:
    """What an admin should see on a Node, about `pool`."""

    pool: str
    reason: str
    message: str
    warning: bool = False


class Overview:
    """By pool and by node. Kept up to date, so that a pool's status is a sum."""

    def __init__(self) -> None:
        self._by_node: dict[str, Mapping[str, PoolOnNode]] = {}
        self._by_pool: dict[str, Tally] = {}

    def of_pool(self, pool: str) -> Tally:
        """How the pool stands on its nodes."""
        return self._by_pool.get(pool) or Tally()

    def counts(self) -> Iterator[tuple[str, State, int]]:
        """(pool, state, number of nodes)."""
        for pool in sorted(self._by_pool):
            states = [there.state for there in self._by_pool[pool].on_nodes.values()]
            for state in State:
                yield pool, state, states.count(state)

    def put(self, node: str, on_node: Mapping[str, PoolOnNode]) -> tuple[set[str], list[News]]:
        """How all pools stand on `node` now; return those that changed there, and the news.

        A node that was not known before makes no news: the operator may have started just now.
        """
        known = self._by_node.get(node)
        before = known or {}
        changed = {
            pool for pool in before.keys() | on_node.keys() if before.get(pool) != on_node.get(pool)
        }
        for pool in changed:
            self._put_one(pool, node, on_node.get(pool))
        self._by_node[node] = on_node
        if known is None:
            return changed, []
        news = (_news(pool, before.get(pool), on_node.get(pool)) for pool in sorted(changed))
        return changed, [item for item in news if item is not None]

    def forget(self, node: str) -> set[str]:
        """Drop a node that no longer exists; return the pools that were on it."""
        changed, _ = self.put(node, {})
        del self._by_node[node]
        return changed

    def _put_one(self, pool: str, node: str, here: PoolOnNode | None) -> None:
        if (tally := self._by_pool.get(pool)) is None:
            tally = self._by_pool[pool] = Tally()
        tally.put(node, here)
        if not tally.on_nodes:
            del self._by_pool[pool]


_REASONS: Final = {
    State.RESERVED: ("Reserved", False),
    State.SHRINKING: ("Shrinking", False),
    State.DEGRADED: ("PartlyReserved", True),
    State.CONFLICTED: ("Conflicted", True),
    State.RELEASING: ("Releasing", False),
}


def _news(pool: str, before: PoolOnNode | None, after: PoolOnNode | None) -> News | None:
    if after is None:
        if before is not None and before.state is State.RELEASING:
            return News(pool, "Released", f"pool {pool} has no memory here any more")
        return None
    if (before is not None and before.state is after.state) or after.state not in _REASONS:
        return None
    reason, warning = _REASONS[after.state]
    detail = after.detail or f"{v1alpha1.format_bytes(after.capacity_bytes)} reserved"
    return News(pool, reason, f"pool {pool}: {detail}", warning)

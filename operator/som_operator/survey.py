"""Plans nodes and notes how every pool stands there: what follows from the caches, without a write.

A plan stands until one of its facts changes, whoever asks for it.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import Final

from som_api import kube, v1alpha1
from som_api.plan import observed, plan, standing
from som_api.plan.reports import PoolOnNode
from som_api.run import workqueue
from som_operator import agents, node_events
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.overview import Overview

STATUS_EVERY_S: Final = 1.0
"""A status tells of many nodes: what changes within this time makes one write."""
NODES_AT_ONCE: Final = 100
"""Plans between two turns of the event loop: a fleet of them takes longer than a probe waits."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """All that a plan depends on. `somnode` is what is written to, too."""

    pools: standing.Pools
    node: observed.Node
    somnode: v1alpha1.SomNode | None
    bound: observed.BoundPods
    agent_lost: bool

    def same(self, other: "Facts") -> bool:
        """Whether nothing came in between: caches replace an object when it changes."""
        return (
            self.pools is other.pools
            and self.node is other.node
            and self.somnode is other.somnode
            and self.agent_lost == other.agent_lost
            and self.bound == other.bound
        )


class Survey:
    """The plans of all nodes. A pool that stands differently somewhere is due in `pools_due`."""

    def __init__(
        self,
        fleet: Fleet,
        overview: Overview,
        agents: Agents,
        events: node_events.NodeEvents,
        *,
        pools_due: workqueue.WorkQueue[str],
    ) -> None:
        self._fleet = fleet
        self._overview = overview
        self._agents = agents
        self._events = events
        self._pools_due = pools_due
        self._planned: dict[str, tuple[Facts, plan.NodePlan]] = {}
        self._complete_for: standing.Pools | None = None

    async def complete(self) -> None:
        """Plan every node with the SomPools as they are now."""
        while self._complete_for is not (pools := self._fleet.pools):
            for count, name in enumerate(list(self._fleet.nodes)):
                if count % NODES_AT_ONCE == 0:
                    await asyncio.sleep(0)
                try:
                    self.node(name)
                except Exception:
                    # That node's own reconcile fails by it, is counted, and is tried again.
                    _log.exception("a node cannot be planned", extra={"node": name})
            self._complete_for = pools

    def node(self, name: str) -> tuple[Facts, plan.NodePlan] | None:
        """The node's plan and its facts; None for a node that is gone, or stays as it is."""
        node, pools = self._fleet.nodes.get(name), self._fleet.pools
        if node is None:
            self._agents.forget(name)
            self._planned.pop(name, None)
            for pool in self._overview.forget(name):
                self._pools_due.add_after(pool, STATUS_EVERY_S)
            return None
        unreadable = self._fleet.unreadable(name)
        if unreadable is not None:
            self._planned.pop(name, None)
            self._note(name, plan.unreadable(pools, node, unreadable))
            return None
        somnode, bound = self._fleet.somnode(name), self._fleet.bound(name)
        lost = self._agents.look(node, bound, somnode)
        facts = Facts(pools, node, somnode, bound, lost)
        known = self._planned.get(name)
        if known is None or not facts.same(known[0]):
            why = agents.detail(bound) if lost else ""
            planned = plan.plan_node(pools, node, somnode, bound, agent_lost=why)
            known = self._planned[name] = facts, planned
            self._note(name, planned.on_node)
        return known

    def _note(self, node: str, on_node: Mapping[str, PoolOnNode]) -> None:
        changed, news = self._overview.put(node, on_node)
        for pool in changed:
            self._pools_due.add_after(pool, STATUS_EVERY_S)
        for item in news:
            self._events.of_pool(self._fleet.pool_ref(item.pool)).emit(
                kube.node_ref(node), reason=item.reason, message=item.message, warning=item.warning
            )

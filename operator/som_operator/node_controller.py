"""Carries one node's plan out: its SomNode's spec, the som capacity in its status, its Events.

What kubelet's books lack, and whether the agent is there, is said in conditions of the SomNode,
beside the agent's own.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from som_api import kube, v1alpha1
from som_api.run import clock
from som_operator import agents, books, node_events, observed, plan, standing, statuses
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.overview import Overview
from som_operator.reports import PoolOnNode

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Facts:
    """All that a plan depends on. `somnode` is what is written to, too."""

    pools: standing.Pools
    node: observed.Node
    somnode: v1alpha1.SomNode | None
    bound: observed.BoundPods
    agent_lost: bool

    def same(self, other: "_Facts") -> bool:
        """Whether nothing came in between: caches replace an object when it changes."""
        return (
            self.pools is other.pools
            and self.node is other.node
            and self.somnode is other.somnode
            and self.agent_lost == other.agent_lost
            and self.bound == other.bound
        )


class NodeController:
    """Reconciles nodes by name. `pool_changed(name)` is told which pool stands differently."""

    def __init__(
        self,
        client: kube.Client,
        fleet: Fleet,
        overview: Overview,
        recorder: kube.Recorder,
        agents: Agents,
        *,
        pool_changed: Callable[[str], None],
        time: clock.Clock,
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._overview = overview
        self._events = node_events.NodeEvents(recorder, time=time)
        self._agents = agents
        self._pool_changed = pool_changed
        self._statuses = statuses.Statuses[v1alpha1.SomNodeStatus](client, time=time)
        self._planned: dict[str, tuple[_Facts, plan.NodePlan]] = {}

    async def reconcile(self, name: str) -> float | None:
        """Make the node what its plan says. Raises KubeError.

        Returns the seconds after which its agent is lost, where that may be.
        """
        node = self._fleet.node(name)
        if node is None:
            self._statuses.forget(name)
            self._agents.forget(name)
            self._planned.pop(name, None)
            for pool in self._overview.forget(name):
                self._pool_changed(pool)
            return None
        self.survey(node)
        known = self._planned.get(name)
        if known is not None:
            facts, planned = known
            # A node stops to advertise before it stops to have.
            await self._advertise(node, planned.units)
            await self._order(facts, planned.entries)
            await self._tell_conditions(facts)
        left_s = self._agents.left_s(name)
        return left_s if 0.0 < left_s < math.inf else None

    def survey(self, node: observed.Node) -> None:
        """Plan the node and note how every pool stands there, without a write."""
        name, pools = node.name, self._fleet.pools
        unreadable = self._fleet.unreadable(name)
        if unreadable is not None:
            self._planned.pop(name, None)
            self._note(name, plan.unreadable(pools, node, unreadable))
            return
        somnode, bound = self._fleet.somnode(name), self._fleet.bound(name)
        lost = self._agents.look(node, bound, somnode)
        facts = _Facts(pools, node, somnode, bound, lost)
        known = self._planned.get(name)
        if known is None or not facts.same(known[0]):
            why = agents.detail(bound) if lost else ""
            planned = plan.plan_node(pools, node, somnode, bound, agent_lost=why)
            self._planned[name] = facts, planned
            self._note(name, planned.on_node)

    def _note(self, node: str, on_node: Mapping[str, PoolOnNode]) -> None:
        changed, news = self._overview.put(node, on_node)
        for pool in changed:
            self._pool_changed(pool)
        for item in news:
            self._events.of_pool(self._fleet.pool_ref(item.pool)).emit(
                kube.node_ref(node), reason=item.reason, message=item.message, warning=item.warning
            )

    async def _advertise(self, node: observed.Node, units: observed.Units) -> None:
        """Patch capacity only: kubelet derives allocatable from it."""
        changed = {
            v1alpha1.resource_name(unit): str(count) if count else None
            for unit, count in units.items()
            if node.units.get(unit, 0) != count
        }
        if changed:
            # The uid keeps the patch from another Node of the same name.
            patch = {"metadata": {"uid": node.uid}, "status": {"capacity": changed}}
            path = kube.NODES.path(name=node.name, subresource="status")
            await self._client.merge_patch(path, patch)
            _log.info("node advertises", extra={"node": node.name, "capacity": changed})

    async def _order(self, facts: _Facts, entries: Sequence[v1alpha1.NodePool]) -> None:
        """The SomNode is the one that was planned with: its generation guards the write."""
        node, somnode = facts.node, facts.somnode
        owners = [{"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}]
        spec = v1alpha1.SomNodeSpec(pools=tuple(entries)).model_dump(mode="json", exclude_none=True)
        if somnode is None:
            if entries:
                await self._create(node.name, owners, spec)
                _log.info("node ordered", extra={"node": node.name, "pools": _in_words(entries)})
            return
        metadata = somnode.metadata
        is_owned = node.uid in {owner.uid for owner in metadata.owner_references}
        if metadata.deletion_timestamp or (somnode.spec.pools == tuple(entries) and is_owned):
            return
        # The generation is that of the spec: agents write statuses all the time meanwhile.
        await self._client.json_patch(
            kube.SOMNODES.path(name=node.name),
            [
                {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
                {"op": "test", "path": "/metadata/generation", "value": metadata.generation},
                {"op": "add", "path": "/metadata/ownerReferences", "value": owners},
                {"op": "add", "path": "/spec", "value": spec},
            ],
        )
        _log.info("node ordered", extra={"node": node.name, "pools": _in_words(entries)})

    async def _tell_conditions(self, facts: _Facts) -> None:
        """In one request: what is not in it would be taken back."""
        node, somnode = facts.node, self._fleet.somnode(facts.node.name)
        if somnode is None or somnode.metadata.deletion_timestamp:
            return
        wanted = (
            books.condition(node, somnode),
            agents.condition(facts.bound, somnode, lost=facts.agent_lost),
        )
        conditions = tuple(condition for condition in wanted if condition is not None)
        if not conditions:
            return
        pool = next((self._fleet.pool_ref(entry.name) for entry in somnode.spec.pools), None)
        await self._statuses.publish(
            kube.ObjectRef(kube.SOMNODES, node.name),
            self._events.of_pool(pool),
            version=somnode.metadata.resource_version,
            current=somnode.status,
            wanted=v1alpha1.SomNodeStatus(conditions=conditions),
            about=kube.node_ref(node.name),
        )

    async def _create(self, name: str, owners: list[kube.Json], spec: kube.Json) -> None:
        somnode = {
            "apiVersion": kube.SOMNODES.api_version,
            "kind": kube.SOMNODES.kind,
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": spec,
        }
        try:
            await self._client.create(kube.SOMNODES.path(), somnode)
        except kube.KubeError as error:
            if error.status != 409:
                raise
            # The cache has not seen it yet; when it does, the node is due again.
            _log.info("SomNode is there already", extra={"node": name})


def _in_words(entries: Sequence[v1alpha1.NodePool]) -> str:
    pools = (f"{entry.name}: {v1alpha1.format_bytes(entry.capacity)}" for entry in entries)
    return ", ".join(pools) or "no pool"

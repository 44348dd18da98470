"""Carries one node's plan out: its SomNode's spec, the som capacity in its status, its Events.

What kubelet's books lack, whether the agent is there, a runtime that is too old and whether som.ko
is loaded are told in conditions of the SomNode, beside the agent's own.
"""

import dataclasses
import logging
import math
from collections.abc import Sequence

from som_api import kube, v1alpha1
from som_operator import agents, books, node_events, observed, runtimes
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.loading import decide
from som_operator.loading.driver import Driver
from som_operator.statuses import Statuses
from som_operator.survey import Facts, Survey

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class NodeController:
    """Reconciles nodes by name; without a `driver`, something else loads som.ko."""

    client: kube.Client
    fleet: Fleet
    survey: Survey
    agents: Agents
    events: node_events.NodeEvents
    statuses: Statuses[v1alpha1.SomNodeStatus]
    driver: Driver | None = None

    async def reconcile(self, name: str) -> float | None:
        """Make the node what its plan says. Raises KubeError.

        Returns the seconds after which its agent is lost, or its driver due, where that may be.
        """
        surveyed = self.survey.node(name)
        due_s = math.inf
        if surveyed is not None:
            facts, planned = surveyed
            # Stop advertising memory before taking it away.
            await self._advertise(facts.node, planned.units)
            await self._order(facts, planned.entries)
            due_s = await self._attend(facts)
        elif name not in self.fleet.nodes:
            self.statuses.forget(name)
        left_s = self.agents.left_s(name)
        due_s = min(due_s, left_s) if left_s > 0.0 else due_s
        return due_s if due_s < math.inf else None

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
            await self.client.merge_patch(path, patch)
            _log.info("node advertises", extra={"node": node.name, "capacity": changed})

    async def _order(self, facts: Facts, entries: Sequence[v1alpha1.NodePool]) -> None:
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
        await self.client.json_patch(
            kube.SOMNODES.path(name=node.name),
            [
                {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
                {"op": "test", "path": "/metadata/generation", "value": metadata.generation},
                {"op": "add", "path": "/metadata/ownerReferences", "value": owners},
                {"op": "add", "path": "/spec", "value": spec},
            ],
        )
        _log.info("node ordered", extra={"node": node.name, "pools": _in_words(entries)})

    async def _attend(self, facts: Facts) -> float:
        """Tell how the node is, and see to its driver; return when that is due again, in seconds.

        In this order: the condition remembers whose the module is when the pod is gone.
        """
        node, somnode = facts.node, self.fleet.somnode(facts.node.name)
        if somnode is None or somnode.metadata.deletion_timestamp:
            return math.inf
        if self.driver is None:
            await self._tell_conditions(facts, somnode, None)
            return math.inf
        pod = self.fleet.driver_pods.get(node.name)
        decision = self.driver.due(node, somnode, pod)
        await self._tell_conditions(facts, somnode, decision.condition)
        await self.driver.act(decision, node, somnode, pod)
        return math.inf if decision.after_s is None else decision.after_s

    async def _tell_conditions(
        self, facts: Facts, somnode: v1alpha1.SomNode, loaded: v1alpha1.Condition | None
    ) -> None:
        """In one request: what is not in it would be taken back."""
        node = facts.node
        wanted = (
            books.condition(node, somnode),
            agents.condition(facts.bound, somnode, lost=facts.agent_lost),
            runtimes.condition(node, somnode),
            loaded,
        )
        conditions = tuple(condition for condition in wanted if condition is not None)
        is_over = loaded is None and any(
            told.type == decide.CONDITION for told in somnode.status.conditions
        )
        if not conditions and not is_over:
            return
        pool = next((self.fleet.pool_ref(entry.name) for entry in somnode.spec.pools), None)
        await self.statuses.publish(
            kube.ObjectRef(kube.SOMNODES, node.name),
            self.events.of_pool(pool),
            version=somnode.metadata.resource_version,
            current=somnode.status,
            wanted=v1alpha1.SomNodeStatus(conditions=conditions),
            dropped={decide.CONDITION} if is_over else set(),
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
            await self.client.create(kube.SOMNODES.path(), somnode)
        except kube.KubeError as error:
            if error.status != 409:
                raise
            # The cache has not seen it yet; when it does, the node is due again.
            _log.info("SomNode is there already", extra={"node": name})


def _in_words(entries: Sequence[v1alpha1.NodePool]) -> str:
    pools = (f"{entry.name}: {v1alpha1.format_bytes(entry.capacity)}" for entry in entries)
    return ", ".join(pools) or "no pool"

"""Carries one node's plan out: its SomNode's spec, the som capacity in its status, its Events.

What kubelet's books lack, whether the agent is there, a runtime that is too old and whether som.ko
is loaded are told in conditions of the SomNode, beside the agent's own.
"""

import dataclasses
import logging
import math
from collections.abc import Sequence, Set

from som_api import kube, v1alpha1
from som_api.plan import books, observed, runtimes
from som_operator import agents, node_events
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.loading import decide, pods
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

    def look(self, name: str) -> bool:
        """Survey the node; return whether `reconcile` has anything to do there.

        Of a fleet's reports most change no more than a pool's sums.
        """
        surveyed = self.survey.node(name)
        if surveyed is None or self._agent_due_s(name) < math.inf:
            return True
        facts, planned = surveyed
        if _changed(facts.node, planned.units) or not _stands(facts, planned.entries):
            return True
        attention = self._attention(facts)
        return attention is not None and attention.is_due

    async def reconcile(self, name: str) -> float | None:
        """Make the node what its plan says. Raises KubeError.

        Returns the seconds after which its agent is lost, or its driver due, where that may be.
        """
        surveyed = self.survey.node(name)
        due_s = self._agent_due_s(name)
        if surveyed is not None:
            facts, planned = surveyed
            # Stop advertising memory before taking it away.
            await self._advertise(facts.node, planned.units)
            await self._order(facts, planned.entries)
            due_s = min(due_s, await self._attend(facts))
        elif name not in self.fleet.nodes:
            self.statuses.forget(name)
        return due_s if due_s < math.inf else None

    def _agent_due_s(self, name: str) -> float:
        """Seconds until the node's agent is lost; infinity where it is well, or lost already."""
        return self.agents.left_s(name) or math.inf

    async def _advertise(self, node: observed.Node, units: observed.Units) -> None:
        """Patch capacity only: kubelet derives allocatable from it, and writes it first."""
        changed, there = _changed(node, units), node.capacity or {}
        if changed:
            # The uid keeps the patch from another Node of the same name, and what was there, from
            # a Node that somebody else has changed. Kubelet writes its version all the time.
            guards: list[kube.Json] = [{"op": "test", "path": "/metadata/uid", "value": node.uid}]
            changes: list[kube.Json] = []
            for name, count in changed.items():
                path, before = (
                    f"/status/capacity/{name.replace('/', '~1')}",
                    there.get(name),
                )
                guards.append({"op": "test", "path": path, "value": before})
                if count is not None:
                    changes.append({"op": "add", "path": path, "value": count})
                elif before is not None:
                    changes.append({"op": "remove", "path": path})
            path = kube.NODES.path(name=node.name, subresource="status")
            await self.client.json_patch(path, guards + changes)
            _log.info("node advertises", extra={"node": node.name, "capacity": changed})

    async def _order(self, facts: Facts, entries: Sequence[v1alpha1.NodePool]) -> None:
        """The SomNode is the one that was planned with: its generation guards the write."""
        node, somnode = facts.node, facts.somnode
        if _stands(facts, entries):
            return
        owners = [{"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}]
        spec = v1alpha1.SomNodeSpec(pools=tuple(entries)).model_dump(mode="json", exclude_none=True)
        if somnode is None:
            await self._create(node.name, owners, spec)
            _log.info("node ordered", extra={"node": node.name, "pools": _in_words(entries)})
            return
        metadata = somnode.metadata
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

    def _attention(self, facts: Facts) -> "_Attention | None":
        """What the node's SomNode is to say, and what its driver is due; None without a SomNode."""
        node, somnode = facts.node, self.fleet.somnode(facts.node.name)
        if somnode is None or somnode.metadata.deletion_timestamp:
            return None
        pod = decision = None
        if self.driver is not None:
            pod = self.fleet.driver_pods.get(node.name)
            decision = self.driver.due(node, somnode, pod)
        wanted = (
            books.condition(node, somnode),
            agents.condition(facts.bound, somnode, lost=facts.agent_lost),
            runtimes.condition(node, somnode),
            decision.condition if decision else None,
        )
        conditions = tuple(condition for condition in wanted if condition is not None)
        return _Attention(somnode, conditions, decision, pod)

    async def _attend(self, facts: Facts) -> float:
        """Tell how the node is, and see to its driver; return when that is due again, in seconds.

        In this order: the condition remembers whose the module is when the pod is gone.
        """
        attention = self._attention(facts)
        if attention is None:
            return math.inf
        await self._tell_conditions(facts.node.name, attention)
        decision = attention.decision
        if self.driver is None or decision is None:
            return math.inf
        await self.driver.act(decision, facts.node, attention.somnode, attention.pod)
        return math.inf if decision.after_s is None else decision.after_s

    async def _tell_conditions(self, name: str, attention: "_Attention") -> None:
        """In one request: what is not in it would be taken back."""
        somnode, dropped = attention.somnode, attention.dropped
        if not attention.conditions and not dropped:
            return
        pool = next((self.fleet.pool_ref(entry.name) for entry in somnode.spec.pools), None)
        await self.statuses.publish(
            kube.ObjectRef(kube.SOMNODES, name),
            self.events.of_pool(pool),
            version=somnode.metadata.resource_version,
            current=somnode.status,
            wanted=v1alpha1.SomNodeStatus(conditions=attention.conditions),
            dropped=dropped,
            about=kube.node_ref(name),
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Attention:
    """The operator's conditions of `somnode`, and what the driver with its `pod` is due."""

    somnode: v1alpha1.SomNode
    conditions: tuple[v1alpha1.Condition, ...]
    decision: decide.Decision | None
    pod: pods.Pod | None

    @property
    def dropped(self) -> Set[str]:
        """The types of conditions that are told and are no more."""
        told = {condition.type for condition in self.somnode.status.conditions}
        has_driver = self.decision is not None and self.decision.condition is not None
        return frozenset() if has_driver else told & {decide.CONDITION}

    @property
    def is_due(self) -> bool:
        """Whether anything is to be told or done, now or by and by."""
        decision = self.decision
        if decision and (decision.delete or decision.create or decision.after_s is not None):
            return True
        told = self.somnode.status.conditions
        return not kube.stands(told, self.conditions, dropped=self.dropped)


def _changed(node: observed.Node, units: observed.Units) -> dict[str, str | None]:
    """The som capacity that is to be written, by resource; None where it is to be taken away.

    Nothing before kubelet has written what the node has.
    """
    if node.capacity is None:
        return {}
    return {
        v1alpha1.resource_name(unit): str(count) if count else None
        for unit, count in units.items()
        if node.units.get(unit, 0) != count
    }


def _stands(facts: Facts, entries: Sequence[v1alpha1.NodePool]) -> bool:
    """Whether nothing is to be written: the orders are these already, or the object goes."""
    somnode = facts.somnode
    if somnode is None:
        return not entries
    metadata = somnode.metadata
    is_owned = any(owner.uid == facts.node.uid for owner in metadata.owner_references)
    return bool(metadata.deletion_timestamp) or (somnode.spec.pools == tuple(entries) and is_owned)


def _in_words(entries: Sequence[v1alpha1.NodePool]) -> str:
    pools = (f"{entry.name}: {v1alpha1.format_bytes(entry.capacity)}" for entry in entries)
    return ", ".join(pools) or "no pool"

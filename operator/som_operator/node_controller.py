"""Carries one node's plan out: its SomNode's spec, the som capacity in its status, its Events.

What kubelet's books lack is said in a condition of the SomNode, beside the agent's.
"""

import logging
from collections.abc import Callable, Sequence

from som_api import kube, v1alpha1
from som_operator import books, observed, plan, statuses
from som_operator.fleet import Fleet
from som_operator.shares import Shares

_log = logging.getLogger(__name__)


class NodeController:
    """Reconciles nodes by name. `pool_changed(name)` is told whose share has changed."""

    def __init__(
        self,
        client: kube.Client,
        fleet: Fleet,
        shares: Shares,
        recorder: kube.Recorder,
        *,
        pool_changed: Callable[[str], None],
        time: kube.Clock,
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._shares = shares
        self._recorder = recorder
        self._pool_changed = pool_changed
        self._statuses = statuses.Statuses[v1alpha1.SomNodeStatus](client, recorder, time=time)

    async def reconcile(self, name: str) -> None:
        """Make the node what its plan says. Raises KubeError."""
        node = self._fleet.node(name)
        if node is None:
            self._statuses.forget(name)
            for pool in self._shares.forget(name):
                self._pool_changed(pool)
            return
        if not self._fleet.is_readable(name):
            return
        planned = self.survey(node)
        # A node stops to advertise before it stops to have.
        await self._advertise(node, planned.units)
        await self._order(node, planned.entries)
        await self._tell_books(node)

    def survey(self, node: observed.Node) -> plan.NodePlan:
        """Plan the node and note how every pool stands there, without a write."""
        planned = plan.plan_node(
            self._fleet.orders, node, self._fleet.somnode(node.name), self._fleet.bound(node.name)
        )
        changed, news = self._shares.put(node.name, planned.shares)
        for pool in changed:
            self._pool_changed(pool)
        for item in news:
            self._recorder.emit(
                kube.node_ref(node.name),
                reason=item.reason,
                message=item.message,
                warning=item.warning,
            )
        return planned

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

    async def _order(self, node: observed.Node, entries: Sequence[v1alpha1.NodePool]) -> None:
        somnode = self._fleet.somnode(node.name)
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

    async def _tell_books(self, node: observed.Node) -> None:
        somnode = self._fleet.somnode(node.name)
        condition = books.condition(node, somnode)
        if somnode is None or condition is None or somnode.metadata.deletion_timestamp:
            return
        await self._statuses.publish(
            kube.ObjectRef(kube.SOMNODES, node.name),
            version=somnode.metadata.resource_version,
            current=somnode.status,
            wanted=v1alpha1.SomNodeStatus(conditions=(condition,)),
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

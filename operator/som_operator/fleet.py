"""What the operator knows of the cluster: caches of SomPools, SomNodes, Nodes and Pods.

Every change makes the keys due that it can concern: `node_due(name)` for what a node shall do,
`pool_due(name)` for how a pool stands. Both must only note the key.
"""

import asyncio
import logging
from collections.abc import Callable, Set
from typing import Any, NoReturn, TypeVar

import pydantic

from som_api import heartbeats, kube, v1alpha1
from som_operator import observed, pools

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Fleet:
    """The caches and what follows from them. Nothing may be decided before `wait_synced`.

    `nodes` and `somnodes` are by name.
    """

    def __init__(
        self,
        client: kube.Client,
        *,
        agent_namespace: str,
        node_due: Callable[[str], None],
        pool_due: Callable[[str], None],
        beats: heartbeats.Heartbeats | None = None,
        time: kube.Clock,
    ) -> None:
        self._node_due = node_due
        self._pool_due = pool_due
        self._pods_of: dict[str, dict[kube.Key, observed.Pod]] = {}
        self._gone: set[str] = set()
        self._orders: pools.Orders | None = None
        self.nodes: dict[str, observed.Node] = {}
        self.somnodes: dict[str, v1alpha1.SomNode | observed.UnreadableSomNode] = {}
        self._pools = kube.Reflector[v1alpha1.SomPool | None](
            client,
            kube.SOMPOOLS,
            decode=_decode_pool,
            on_change=self._pool_changed,
            beats=beats,
            time=time,
        )
        self._somnodes = kube.Reflector[v1alpha1.SomNode | observed.UnreadableSomNode](
            client,
            kube.SOMNODES,
            decode=_decode_somnode,
            on_change=self._somnode_changed,
            beats=beats,
            time=time,
        )
        self._nodes = kube.Reflector[observed.Node](
            client,
            kube.NODES,
            decode=observed.decode_node,
            on_change=self._node_changed,
            beats=beats,
            time=time,
        )
        self._pods = kube.Reflector[observed.Pod | None](
            client,
            kube.PODS,
            decode=lambda item: observed.decode_pod(item, agent_namespace=agent_namespace),
            on_change=self._pod_changed,
            beats=beats,
            time=time,
        )

    @property
    def watches(self) -> tuple[kube.Reflector[Any], ...]:
        """What is followed, for metrics."""
        return self._pools, self._somnodes, self._nodes, self._pods

    async def run(self) -> NoReturn:
        """Follow the cluster until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self.watches:
                tasks.create_task(reflector.run())
        raise AssertionError("reflectors run for ever")

    @property
    def synced(self) -> bool:
        """Whether every list is complete."""
        return all(reflector.synced for reflector in self.watches)

    async def wait_synced(self) -> None:
        """Return when every list is complete."""
        for reflector in self.watches:
            await reflector.wait_synced()

    @property
    def orders(self) -> pools.Orders:
        """All pools as the plan reads them; the same object until one of them changes."""
        if self._orders is None:
            found = (pool for pool in self._pools.cache.values() if pool is not None)
            self._orders = pools.Orders(found, gone=frozenset(self._gone))
        return self._orders

    def pool(self, name: str) -> v1alpha1.SomPool | None:
        """The pool with its status as last seen."""
        return self._pools.cache.get(kube.Key("", name))

    def pool_ref(self, name: str) -> kube.ObjectRef | None:
        """The pool as Events name it, where it is known."""
        pool = self.pool(name)
        return kube.ObjectRef(kube.SOMPOOLS, name, uid=pool.metadata.uid) if pool else None

    def node(self, name: str) -> observed.Node | None:
        return self.nodes.get(name)

    def somnode(self, name: str) -> v1alpha1.SomNode | None:
        """The node's SomNode, where there is one that can be read."""
        found = self.somnodes.get(name)
        return None if isinstance(found, observed.UnreadableSomNode) else found

    def unreadable(self, node: str) -> observed.UnreadableSomNode | None:
        """The node's SomNode where it cannot be read: then the node stays as it is."""
        found = self.somnodes.get(node)
        return found if isinstance(found, observed.UnreadableSomNode) else None

    def bound(self, node: str) -> observed.Bound:
        """What the Pods of a node say together."""
        return observed.bound(self._pods_of.get(node, {}).values())

    @property
    def pool_names(self) -> Set[str]:
        return {key.name for key in self._pools.cache}

    def is_gone(self, pool: str) -> None:
        """Note that the API server, asked for this pool by name, said that there is none."""
        self._gone.add(pool)
        self._all_due()

    def _pool_changed(
        self, key: kube.Key, old: v1alpha1.SomPool | None, new: v1alpha1.SomPool | None
    ) -> None:
        if new is not None:
            self._gone.discard(key.name)
        if old is None or new is None or _without_status(old) != _without_status(new):
            self._all_due()
        self._pool_due(key.name)

    def _all_due(self) -> None:
        self._orders = None
        for name in self.nodes:
            self._node_due(name)

    def _node_changed(
        self, key: kube.Key, old: observed.Node | None, new: observed.Node | None
    ) -> None:
        _keep(self.nodes, key, new)
        self._node_due(key.name)

    def _somnode_changed(
        self,
        key: kube.Key,
        old: v1alpha1.SomNode | observed.UnreadableSomNode | None,
        new: v1alpha1.SomNode | observed.UnreadableSomNode | None,
    ) -> None:
        _keep(self.somnodes, key, new)
        self._node_due(key.name)

    def _pod_changed(
        self, key: kube.Key, old: observed.Pod | None, new: observed.Pod | None
    ) -> None:
        if old is not None:
            there = self._pods_of[old.node]
            del there[key]
            if not there:
                del self._pods_of[old.node]
        if new is not None:
            self._pods_of.setdefault(new.node, {})[key] = new
        for node in {pod.node for pod in (old, new) if pod is not None}:
            self._node_due(node)


def _keep(by_name: dict[str, T], key: kube.Key, value: T | None) -> None:
    if value is None:
        by_name.pop(key.name, None)
    else:
        by_name[key.name] = value


def _without_status(pool: v1alpha1.SomPool) -> object:
    metadata = pool.metadata
    return pool.spec, metadata.generation, metadata.deletion_timestamp, metadata.finalizers


def _decode_pool(item: kube.Json) -> v1alpha1.SomPool | None:
    """The pool, or None: what cannot be read is not known, and what is not known is frozen.

    One that was known leaves the cache by that, too: its last orders are no longer the admin's.
    """
    try:
        return v1alpha1.SomPool.model_validate(item)
    except pydantic.ValidationError as error:
        _log.error(
            "SomPool cannot be read; its nodes stay as they are",
            extra={"pool": item["metadata"]["name"], "error": str(error)},
        )
        return None


def _decode_somnode(item: kube.Json) -> v1alpha1.SomNode | observed.UnreadableSomNode:
    try:
        return v1alpha1.SomNode.from_manifest(item)
    except pydantic.ValidationError as error:
        problem = _first_fault(error)
        _log.error(
            "SomNode cannot be read; its node stays as it is",
            extra={"node": item["metadata"]["name"], "error": problem},
        )
        # That these are lists of objects with names is in the CRD.
        parts = (item.get("spec", {}), item.get("status", {}))
        named = frozenset(entry["name"] for part in parts for entry in part.get("pools", ()))
        return observed.UnreadableSomNode(named, problem)


def _first_fault(error: pydantic.ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(str(step) for step in detail['loc'])}: {detail['msg']}"

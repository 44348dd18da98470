"""What the operator knows of the cluster: caches of SomPools, SomNodes, Nodes and Pods.

Every change makes the keys due that it can concern: `node_due(name)` for what a node shall do,
`pool_due(name)` for how a pool stands. Both must only note the key.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Set
from typing import NoReturn

import pydantic

from som_api import kube, v1alpha1
from som_operator import observed, pools

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A SomNode that an agent or operator of another version wrote. It may hold any pool."""


class Fleet:
    """The caches and what follows from them. Nothing may be decided before `wait_synced`."""

    def __init__(
        self,
        client: kube.Client,
        *,
        agent_namespace: str,
        node_due: Callable[[str], None],
        pool_due: Callable[[str], None],
        time: kube.Clock,
    ) -> None:
        self._node_due = node_due
        self._pool_due = pool_due
        self._pods_of: dict[str, dict[kube.Key, observed.Pod]] = {}
        self._gone: set[str] = set()
        self._orders: pools.Orders | None = None
        self._pools = kube.Reflector[v1alpha1.SomPool | None](
            client, kube.SOMPOOLS, decode=_decode_pool, on_change=self._pool_changed, time=time
        )
        self._somnodes = kube.Reflector[v1alpha1.SomNode | Unreadable](
            client, kube.SOMNODES, decode=_decode_somnode, on_change=self._node_changed, time=time
        )
        self._nodes = kube.Reflector[observed.Node](
            client,
            kube.NODES,
            decode=observed.decode_node,
            on_change=self._node_changed,
            time=time,
        )
        self._pods = kube.Reflector[observed.Pod | None](
            client,
            kube.PODS,
            decode=lambda item: observed.decode_pod(item, agent_namespace=agent_namespace),
            on_change=self._pod_changed,
            time=time,
        )

    async def run(self) -> NoReturn:
        """Follow the cluster until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in (self._pools, self._somnodes, self._nodes, self._pods):
                tasks.create_task(reflector.run())
        raise AssertionError("reflectors run for ever")

    @property
    def synced(self) -> bool:
        """Whether every list is complete."""
        reflectors = (self._pools, self._somnodes, self._nodes, self._pods)
        return all(reflector.synced for reflector in reflectors)

    async def wait_synced(self) -> None:
        """Return when every list is complete."""
        for reflector in (self._pools, self._somnodes, self._nodes, self._pods):
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

    @property
    def nodes(self) -> Mapping[str, observed.Node]:
        return {key.name: node for key, node in self._nodes.cache.items()}

    def node(self, name: str) -> observed.Node | None:
        return self._nodes.cache.get(kube.Key("", name))

    def somnode(self, name: str) -> v1alpha1.SomNode | None:
        found = self._somnodes.cache.get(kube.Key("", name))
        return None if isinstance(found, Unreadable) else found

    def is_readable(self, node: str) -> bool:
        """Whether the node has a SomNode that can be read, or none: else it stays as it is."""
        return not isinstance(self._somnodes.cache.get(kube.Key("", node)), Unreadable)

    def bound(self, node: str) -> observed.Bound:
        """What the Pods of a node say together."""
        return observed.bound(self._pods_of.get(node, {}).values())

    @property
    def pool_names(self) -> Set[str]:
        return {key.name for key in self._pools.cache}

    @property
    def somnodes(self) -> Mapping[str, v1alpha1.SomNode | None]:
        """All SomNodes, None for one that cannot be read."""
        return {key.name: self.somnode(key.name) for key in self._somnodes.cache}

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
        for key in self._nodes.cache:
            self._node_due(key.name)

    def _node_changed(self, key: kube.Key, old: object, new: object) -> None:
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


def _decode_somnode(item: kube.Json) -> v1alpha1.SomNode | Unreadable:
    try:
        return v1alpha1.SomNode.from_manifest(item)
    except pydantic.ValidationError as error:
        _log.error(
            "SomNode cannot be read; its node stays as it is",
            extra={"node": item["metadata"]["name"], "error": str(error)},
        )
        return Unreadable()

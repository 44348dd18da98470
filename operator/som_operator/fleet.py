"""What the operator knows of the cluster: caches of SomPools, SomNodes, Nodes and Pods.

Every change makes the keys due that it can concern: nodes for their orders, pools for how they
stand. What one object did has its node surveyed; what an edit of a pool concerns, all nodes, is
due for their orders at once.
"""

import asyncio
from collections.abc import Callable, Mapping, Set
from typing import Any, Final, NoReturn, TypeVar

import pydantic

from som_api import kube, v1alpha1
from som_api.plan import observed, standing
from som_api.run import clock, heartbeats, workqueue
from som_api.web import fleet as web
from som_operator.loading import pods as driver_pods

GATHER_S: Final = 0.1
"""Thousands of nodes report one by one, more than a hundred a second."""

T = TypeVar("T")
_SomPool = v1alpha1.SomPool | observed.UnreadableSomPool
_SomNode = v1alpha1.SomNode | observed.UnreadableSomNode
_Pod = observed.Pod | driver_pods.Pod
_NOTHING_BOUND: Final = observed.bound(())


class Fleet:
    """The caches and what follows from them. Nothing may be decided before `wait_synced`.

    `nodes` and `somnodes` are by name, `driver_pods` by their node's. `changes` is for those who
    watch the fleet.
    """

    def __init__(
        self,
        client: kube.Client,
        *,
        agent_namespace: str,
        nodes_due: workqueue.WorkQueue[str],
        pools_due: workqueue.WorkQueue[str],
        surveys_due: workqueue.WorkQueue[str],
        beats: heartbeats.Heartbeats | None = None,
        time: clock.Clock,
    ) -> None:
        self._nodes_due = nodes_due
        self._pools_due = pools_due
        self._surveys_due = surveys_due
        self.changes = web.Changes()
        self._pods_of: dict[str, dict[kube.Key, observed.Pod]] = {}
        # What they say together, until one of them changes.
        self._bound: dict[str, observed.BoundPods] = {}
        self._gone: set[str] = set()
        self._pools: standing.Pools | None = None
        self.nodes: dict[str, observed.Node] = {}
        self.somnodes: dict[str, _SomNode] = {}
        self.driver_pods: dict[str, driver_pods.Pod] = {}

        def follow(
            resource: kube.Resource,
            decode: Callable[[kube.Json], T | None],
            on_change: Callable[[kube.Key, T | None, T | None], None],
        ) -> kube.Reflector[T]:
            return kube.Reflector(
                client,
                resource,
                decode=decode,
                on_change=on_change,
                gather_s=GATHER_S,
                beats=beats,
                time=time,
            )

        def decode_pod(item: kube.Json) -> _Pod | None:
            is_near = item["metadata"]["namespace"] == agent_namespace
            driver_pod = driver_pods.decode(item) if is_near else None
            return driver_pod or observed.decode_pod(item, agent_namespace=agent_namespace)

        self._sompools: kube.Reflector[_SomPool] = follow(
            kube.SOMPOOLS, _decode_pool, self._pool_changed
        )
        self.watches: tuple[kube.Reflector[Any], ...] = (
            self._sompools,
            follow(kube.SOMNODES, _decode_somnode, self._somnode_changed),
            follow(kube.NODES, observed.decode_node, self._node_changed),
            follow(kube.PODS, decode_pod, self._pod_changed),
        )

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
    def pools(self) -> standing.Pools:
        """All pools as the plan reads them; the same object until one of them changes."""
        if self._pools is None:
            cached = self._sompools.cache.values()
            found = (pool for pool in cached if isinstance(pool, v1alpha1.SomPool))
            self._pools = standing.Pools(found, gone=frozenset(self._gone))
        return self._pools

    def sompool(self, name: str) -> v1alpha1.SomPool | None:
        """The pool with its status as last seen."""
        found = self._sompools.cache.get(kube.Key("", name))
        return found if isinstance(found, v1alpha1.SomPool) else None

    def pool_ref(self, name: str) -> kube.ObjectRef | None:
        """The pool as Events name it, where it is known."""
        pool = self.sompool(name)
        return kube.ObjectRef(kube.SOMPOOLS, name, uid=pool.metadata.uid) if pool else None

    def somnode(self, name: str) -> v1alpha1.SomNode | None:
        """The node's SomNode, where there is one that can be read."""
        found = self.somnodes.get(name)
        return None if isinstance(found, observed.UnreadableSomNode) else found

    def unreadable(self, node: str) -> observed.UnreadableSomNode | None:
        """The node's SomNode where it cannot be read: then the node stays as it is."""
        found = self.somnodes.get(node)
        return found if isinstance(found, observed.UnreadableSomNode) else None

    @property
    def sompools(self) -> Mapping[str, v1alpha1.SomPool]:
        """The pools that can be read, with their status as last seen."""
        cached = self._sompools.cache.items()
        return {key.name: pool for key, pool in cached if isinstance(pool, v1alpha1.SomPool)}

    def pods(self, node: str) -> Mapping[kube.Key, observed.Pod]:
        """The Pods of a node that hold units or are its agent."""
        return self._pods_of.get(node, {})

    def bound(self, node: str) -> observed.BoundPods:
        """What the Pods of a node say together."""
        there = self._pods_of.get(node)
        if there is None:
            return _NOTHING_BOUND
        if (found := self._bound.get(node)) is None:
            found = self._bound[node] = observed.bound(there.values())
        return found

    @property
    def pool_names(self) -> Set[str]:
        return {key.name for key in self._sompools.cache}

    def is_gone(self, pool: str) -> None:
        """Note that the API server, asked for this pool by name, said that there is none."""
        self._gone.add(pool)
        self._all_due()

    def everything_due(self) -> None:
        """Whoever begins to reconcile looks at all of it."""
        for name in self.nodes.keys() | self.somnodes.keys():
            self._nodes_due.add(name)
        for name in self.pool_names:
            self._pools_due.add(name)

    def _pool_changed(self, key: kube.Key, old: _SomPool | None, new: _SomPool | None) -> None:
        self.changes.note("pool", key.name)
        if new is not None:
            self._gone.discard(key.name)
        if _without_status(old) != _without_status(new):
            self._all_due()
        self._pools_due.add(key.name)

    def _all_due(self) -> None:
        self._pools = None
        for name in self.nodes:
            self._nodes_due.add(name)

    def _node_changed(
        self, key: kube.Key, old: observed.Node | None, new: observed.Node | None
    ) -> None:
        _keep(self.nodes, key, new)
        if old is None or new is None or old.ready != new.ready:
            self.changes.note("node", key.name)
        self._surveys_due.add(key.name)

    def _somnode_changed(self, key: kube.Key, old: _SomNode | None, new: _SomNode | None) -> None:
        _keep(self.somnodes, key, new)
        self.changes.note("node", key.name)
        self._surveys_due.add(key.name)

    def _pod_changed(self, key: kube.Key, old: _Pod | None, new: _Pod | None) -> None:
        if isinstance(old, driver_pods.Pod):
            self.driver_pods.pop(old.node, None)
        elif old is not None:
            there = self._pods_of[old.node]
            del there[key]
            if not there:
                del self._pods_of[old.node]
        if isinstance(new, driver_pods.Pod):
            self.driver_pods[new.node] = new
        elif new is not None:
            self._pods_of.setdefault(new.node, {})[key] = new
        for pod in (old, new):
            if isinstance(pod, observed.Pod) and pod.is_agent:
                self.changes.note("node", pod.node)
        for node in {pod.node for pod in (old, new) if pod is not None}:
            self._bound.pop(node, None)
            self._surveys_due.add(node)


def _keep(by_name: dict[str, T], key: kube.Key, value: T | None) -> None:
    if value is None:
        by_name.pop(key.name, None)
    else:
        by_name[key.name] = value


def _without_status(pool: _SomPool | None) -> object:
    if not isinstance(pool, v1alpha1.SomPool):
        return None
    metadata = pool.metadata
    return pool.spec, metadata.generation, metadata.deletion_timestamp, metadata.finalizers


def _decode_pool(item: kube.Json) -> _SomPool:
    try:
        return v1alpha1.SomPool.model_validate(item)
    except pydantic.ValidationError as error:
        raise kube.Unreadable(_first_fault(error), partly=observed.UnreadableSomPool()) from error


def _decode_somnode(item: kube.Json) -> _SomNode:
    try:
        return v1alpha1.SomNode.model_validate(item)
    except pydantic.ValidationError as error:
        # That these are lists of objects with names is in the CRD.
        parts = (item.get("spec", {}), item.get("status", {}))
        named = frozenset(entry["name"] for part in parts for entry in part.get("pools", ()))
        problem = _first_fault(error)
        partly = observed.UnreadableSomNode(named, problem)
        raise kube.Unreadable(problem, partly=partly) from error


def _first_fault(error: pydantic.ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(str(step) for step in detail['loc'])}: {detail['msg']}"

"""What nodes would be ordered if SomPools were applied or deleted: the operator's own plan.

Theory of operation. The API server itself says what `kubectl apply` would make of each SomPool (a
dry run: defaults, generation, rules of the CRD, admission). `plan_node` is then asked with these
pools in place of the present ones, and with the cluster's Nodes and SomNodes as they are. So the
answer is what the operator writes next. What follows only when an agent has acted (a pool that
waits for another to give its memory back) is in `note`.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from som_api import v1alpha1
from som_api.plan import observed, plan, standing
from som_api.plan.reports import PoolOnNode, State
from som_kubectl import cluster

_WHEN: Final = "now"


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one pool on one node; capacities are None where it is not ordered."""

    node: str
    pool: str
    what: str
    now_bytes: int | None
    then_bytes: int | None
    note: str = ""

    @property
    def is_change(self) -> bool:
        """Whether the node is ordered something else; otherwise the note alone is news."""
        return self.now_bytes != self.then_bytes or self.what == "changed"


@dataclasses.dataclass(frozen=True)
class Plan:
    """`specs` is the SomNode's spec of every node that has one or gets one."""

    changes: Sequence[Change]
    specs: Mapping[str, tuple[v1alpha1.NodePool, ...]]

    @property
    def is_empty(self) -> bool:
        """Whether no node is ordered anything else."""
        return not any(change.is_change for change in self.changes)


def after(
    fleet: cluster.Fleet,
    *,
    applied: Iterable[v1alpha1.SomPool] = (),
    deleted: Collection[str] = (),
) -> standing.Pools:
    """The pools as they are when the operator has seen these changes."""
    pools = {**fleet.pools, **{pool.metadata.name: pool for pool in applied}}
    for name in deleted:
        if pool := pools.get(name):
            pools[name] = _with(pool, deletion_timestamp=_WHEN)
    known = pools.keys() | fleet.unreadable_pools.keys()
    named = {name for somnode in fleet.somnodes.values() for name in _pools_of(somnode)}
    return standing.Pools(map(_held, pools.values()), gone=named - known)


def _held(pool: v1alpha1.SomPool) -> v1alpha1.SomPool:
    """The operator puts its finalizer on each pool before anything else."""
    metadata = pool.metadata
    if metadata.deletion_timestamp or standing.FINALIZER in metadata.finalizers:
        return pool
    return _with(pool, finalizers=(*metadata.finalizers, standing.FINALIZER))


def _with(pool: v1alpha1.SomPool, **fields: Any) -> v1alpha1.SomPool:
    return pool.model_copy(update={"metadata": pool.metadata.model_copy(update=fields)})


def _pools_of(somnode: cluster.SomNode) -> Iterable[str]:
    if isinstance(somnode, observed.UnreadableSomNode):
        return somnode.pools
    ordered = (entry.name for entry in somnode.spec.pools)
    return [*ordered, *(pool.name for pool in somnode.status.pools)]


def plan_fleet(fleet: cluster.Fleet, pools: standing.Pools, *, touched: Collection[str]) -> Plan:
    """What changes on which node, and notes on the `touched` pools where nothing changes."""
    changes, specs = list[Change](), dict[str, tuple[v1alpha1.NodePool, ...]]()
    for name, node in sorted(fleet.nodes.items()):
        somnode = fleet.somnodes.get(name)
        if isinstance(somnode, observed.UnreadableSomNode):
            on_node = plan.unreadable(pools, node, somnode)
            changes += [
                Change(name, pool, "stays as it is", None, None, there.detail)
                for pool, there in on_node.items()
                if pool in touched
            ]
            continue
        lost = _agent_lost(somnode)
        planned = plan.plan_node(pools, node, somnode, fleet.bound(name), agent_lost=lost)
        now = somnode.spec.pools if somnode else ()
        if somnode is not None and somnode.metadata.deletion_timestamp:
            specs[name] = now
            continue
        if somnode is not None or planned.entries:
            specs[name] = planned.entries
        changes += _of_node(name, now, planned, somnode, touched)
    return Plan(changes, specs)


def _agent_lost(somnode: v1alpha1.SomNode | None) -> str:
    told = cluster.condition(somnode.status.conditions if somnode else (), "AgentReady")
    return told.message if told is not None and told.status == "False" else ""


def _of_node(
    node: str,
    now: Sequence[v1alpha1.NodePool],
    planned: plan.NodePlan,
    somnode: v1alpha1.SomNode | None,
    touched: Collection[str],
) -> Iterable[Change]:
    before = {entry.name: entry for entry in now}
    then = {entry.name: entry for entry in planned.entries}
    status = somnode.status.pools if somnode else ()
    held = {pool.name: pool.allocated for pool in status}
    for pool in sorted({*before, *then, *(planned.on_node.keys() & set(touched))}):
        old, new, there = before.get(pool), then.get(pool), planned.on_node.get(pool)
        change = Change(
            node=node,
            pool=pool,
            what=_what(old, new, there.state if there else None),
            now_bytes=old.capacity if old else None,
            then_bytes=new.capacity if new else None,
            note=_note(old, new, there, held.get(pool, 0)),
        )
        if change.is_change or (pool in touched and change.note):
            yield change


def _note(
    old: v1alpha1.NodePool | None,
    new: v1alpha1.NodePool | None,
    there: PoolOnNode | None,
    held_bytes: int,
) -> str:
    """What else is to be known, and what waits for an agent or for containers."""
    if there is not None and (there.agent_lost or old is new is None):
        return there.detail
    if there is not None and not there.kubelet_ready:
        return "kubelet is not ready: it happens when the node is back"
    if held_bytes > (new.capacity if new else 0):
        return f"containers hold {v1alpha1.format_bytes(held_bytes)}: as they end"
    return ""


def _what(old: v1alpha1.NodePool | None, new: v1alpha1.NodePool | None, state: State | None) -> str:
    if old is None and new is None:
        return {State.CONFLICTED: "conflicts", State.RELEASING: "leaves"}.get(
            state or State.RELEASING, "waits"
        )
    if old is None or new is None:
        return "new" if old is None else "leaves"
    if old.capacity != new.capacity:
        return "grows" if old.capacity < new.capacity else "shrinks"
    same = old.model_copy(update={"generation": new.generation}) == new
    return "stays" if same else "changed"

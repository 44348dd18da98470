"""What one node must reserve and advertise, and how every pool stands there: pure decisions.

Theory of operation. `plan_node` maps (SomPools, a Node, its SomNode, its Pods) to the SomNode's
spec, the som capacity of node status, and how each pool stands there. It knows no history:
the same facts give the same plan, and a plan that has been carried out plans no change.

Rules that the tests hold it to:
- One unit of a node is fed by one pool. The pool already in the SomNode keeps it, else the lower
  name gets it; all others, and the one that has it, are in conflict.
- Memory changes hands only when it is free: a successor waits until the agent no longer reports
  the predecessor.
- A frozen pool's entry stays as it is.
- Capacity rises only by a fresh report of the agent, and falls only by such a report or by an
  admin's decision, or where the runtime is too old, never below the units of the Pods bound to
  the node. Silence changes nothing, and an agent that has not reported on its SomNode yet is
  silent.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from som_api import v1alpha1
from som_api.plan import observed, reports, runtimes, standing
from som_api.plan.reports import PoolOnNode, Report, State


@dataclasses.dataclass(frozen=True, slots=True)
class NodePlan:
    """`entries` is the SomNode's spec, `units` the som capacity, `on_node` how each pool stands."""

    entries: tuple[v1alpha1.NodePool, ...]
    units: observed.Units
    on_node: Mapping[str, PoolOnNode]


def plan_node(
    pools: standing.Pools,
    node: observed.Node,
    somnode: v1alpha1.SomNode | None,
    bound: observed.BoundPods,
    *,
    agent_lost: str = "",
) -> NodePlan:
    """The plan of one node; `somnode` is None where there is none yet.

    `agent_lost` says why the agent will not report, or is empty. It changes
    how pools stand, never what is ordered or advertised.
    """
    ordered = {entry.name: entry for entry in somnode.spec.pools} if somnode else {}
    report = reports.Report(node, somnode, agent_lost=agent_lost)
    entries: list[v1alpha1.NodePool] = []
    on_node: dict[str, PoolOnNode] = {}
    for unit in observed.UNITS:
        wanting = [
            pool.entry
            for pool in pools.active[unit]
            if pool.wants(node, ordered=ordered.keys(), bound=bound)
        ]
        choice = _choose(unit, wanting, ordered, pools)
        if choice is None:
            continue
        rivals = tuple(entry.name for entry in wanting if entry.name != choice.name)
        predecessor = report.predecessor(choice)
        if predecessor is None or _holds(ordered, choice):
            entries.append(choice)
            here = report.serving(choice)
        else:
            here = report.waiting(choice.name, predecessor)
        on_node[choice.name] = dataclasses.replace(here, rivals=rivals) if rivals else here
        for rival in rivals:
            on_node[rival] = report.conflicted(rival, holder=choice.name)
    for name in sorted(report.pools.keys() | ordered.keys()):
        if name not in on_node:
            on_node[name] = report.leaving(name)
    entries.sort(key=lambda entry: entry.name)
    return NodePlan(tuple(entries), _capacity(node, report, entries, bound), on_node)


def unreadable(
    pools: standing.Pools, node: observed.Node, somnode: observed.UnreadableSomNode
) -> dict[str, PoolOnNode]:
    """How the pools stand that a SomNode names which cannot be read: nothing is planned there."""
    detail = (
        f"its SomNode cannot be read ({somnode.problem}); repair what wrote it, or have the "
        f"operator make it again: kubectl delete somnode {node.name}"
    )
    released = {n for n in somnode.pools if pools.standing(n) is standing.Standing.RELEASED}
    return {
        name: PoolOnNode(
            State.RELEASING if name in released else State.DEGRADED, detail, node.ready
        )
        for name in somnode.pools
    }


def _choose(
    unit: v1alpha1.Unit,
    wanting: Sequence[v1alpha1.NodePool],
    ordered: Mapping[str, v1alpha1.NodePool],
    pools: standing.Pools,
) -> v1alpha1.NodePool | None:
    """Who feeds `unit`: a frozen entry, else an active holder, else the lowest name."""
    for _, entry in sorted(ordered.items()):
        if entry.unit == unit and pools.standing(entry.name) is standing.Standing.FROZEN:
            return entry
    holders = [entry for entry in wanting if _holds(ordered, entry)]
    return next(iter(holders or wanting), None)


def _holds(ordered: Mapping[str, v1alpha1.NodePool], entry: v1alpha1.NodePool) -> bool:
    holder = ordered.get(entry.name)
    return holder is not None and holder.unit == entry.unit


def _capacity(
    node: observed.Node,
    report: Report,
    entries: Iterable[v1alpha1.NodePool],
    bound: observed.BoundPods,
) -> observed.Units:
    """The som capacity that belongs into node status, every unit named.

    Bound Pods keep capacity from falling, but never raise it: whoever may name a node in a Pod
    could otherwise raise it at will.
    """
    by_unit = {entry.unit: entry for entry in entries}
    capacity: dict[v1alpha1.Unit, int] = {}
    for unit in observed.UNITS:
        now = node.units.get(unit, 0)
        entry = by_unit.get(unit)
        if runtimes.trouble(node):
            target = 0
        elif not report.exists:
            # Orders alone do not tell: a SomNode made again may name another pool than before.
            target = now
        elif entry is None:
            target = 0
        else:
            ordered = entry.capacity // v1alpha1.UNIT_BYTES[unit]
            reserved = report.reserved_units(entry)
            target = min(ordered, now if reserved is None else reserved)
        capacity[unit] = max(target, min(now, bound.units.get(unit, 0)))
    return capacity

"""A SomPool's status: how the pool stands on each node, counted and put into conditions.

Ready is True when at least one match has its full capacity and every match whose kubelet is ready
has it. It is Unknown while no kubelet of a match is ready: silence is no information.
"""

from collections.abc import Mapping, Set
from typing import Final, Literal

from som_api import v1alpha1
from som_api.plan import observed, reports
from som_api.plan.reports import State
from som_api.plan.standing import Pool, Standing
from som_api.plan.tally import Group, Silent, Tally

_NAMED_NODES: Final = 3

_Verdict = tuple[Literal["True", "False", "Unknown"], str, str]
"""Status, reason and message of one condition."""


# The first group that has nodes gives the reason.
_NOT_READY: Final[Mapping[Group, str]] = {
    State.CONFLICTED: "Conflicted",
    State.DEGRADED: "PartlyReserved",
    Silent.UNSERVED: "AgentNotReady",
    State.RESERVING: "Reserving",
}
_DEGRADED: Final[Mapping[Group, tuple[str, str]]] = {
    State.DEGRADED: ("PartlyReserved", ""),
    Silent.UNSERVED: ("AgentNotReady", ""),
    Silent.UNREACHABLE: ("Unreachable", "kubelet is not ready: "),
}
_PROGRESSING: Final[Mapping[Group, str]] = {
    State.RESERVING: "Reserving",
    State.SHRINKING: "Shrinking",
}


def pool_status(pool: Pool, tally: Tally) -> v1alpha1.SomPoolStatus:
    """The status of a pool that stands so on its nodes."""
    verdicts = {
        "Ready": _ready(pool, tally),
        "Progressing": _progressing(pool, tally),
        "Degraded": _degraded(tally),
        "Conflicted": _conflicted(tally),
    }
    generation = pool.sompool.metadata.generation
    return v1alpha1.SomPoolStatus(
        observed_generation=generation,
        conditions=tuple(
            v1alpha1.Condition(
                type=kind,
                status=status,
                reason=reason,
                message=message,
                observed_generation=generation,
            )
            for kind, (status, reason, message) in verdicts.items()
        ),
        nodes=v1alpha1.NodeCounts(
            matched=_matched(tally),
            ready=_full(tally),
            degraded=tally.count(State.DEGRADED, State.CONFLICTED, Silent.UNSERVED),
            unreachable=tally.count(Silent.UNREACHABLE),
        ),
        capacity=min(v1alpha1.MOST_BYTES, tally.capacity_bytes),
        allocated=min(v1alpha1.MOST_BYTES, tally.allocated_bytes),
    )


def _matched(tally: Tally) -> int:
    return len(tally.on_nodes) - tally.count(State.RELEASING)


def _full(tally: Tally) -> int:
    """Matches that have their full capacity, or more."""
    return tally.count(State.RESERVED, State.SHRINKING)


def _ready(pool: Pool, tally: Tally) -> _Verdict:
    matched = _matched(tally)
    wanted = v1alpha1.format_bytes(pool.entry.capacity)
    so_far = f"full capacity ({wanted}) on {_full(tally)} of {_nodes(matched)}"
    if pool.standing is Standing.RELEASED:
        return "False", "Releasing", f"the pool is being deleted; {_releasing(tally)}"
    if pool.sompool.spec.paused and pool.sompool.metadata.deletion_timestamp:
        return "False", "Paused", "the pool is deleted, but paused: set paused: false to release it"
    if not matched and pool.sompool.spec.paused:
        return "False", "Paused", "no node has memory of this pool; set paused: false to begin"
    if not matched:
        return "False", "NoNodes", _no_nodes(pool)
    for group, reason in _NOT_READY.items():
        if tally.count(group):
            return "False", reason, f"{so_far}; {_name_nodes(tally, group)}"
    if not _full(tally):
        unreachable = _name_nodes(tally, Silent.UNREACHABLE)
        return "Unknown", "Unreachable", f"no kubelet is ready: {unreachable}"
    return "True", "Reserved", so_far


def _progressing(pool: Pool, tally: Tally) -> _Verdict:
    if pool.sompool.spec.paused:
        return "False", "Paused", "the pool is paused: nothing of it is changed anywhere"
    is_leaving = tally.count(State.RELEASING) and not tally.count(State.RESERVING)
    if pool.standing is Standing.RELEASED or is_leaving:
        return "True", "Releasing", _releasing(tally)
    for group, reason in _PROGRESSING.items():
        if tally.count(group):
            return "True", reason, _name_nodes(tally, group)
    return "False", "Settled", "there is nothing to be done"


def _degraded(tally: Tally) -> _Verdict:
    for group, (reason, what) in _DEGRADED.items():
        if tally.count(group):
            return "True", reason, f"{what}{_name_nodes(tally, group)}"
    return "False", "AsOrdered", "no node lacks memory"


def _conflicted(tally: Tally) -> _Verdict:
    if not tally.rivals:
        return "False", "NoRival", "no other pool wants the same unit on a node of this pool"
    named = ", ".join(f"{pool} on {_nodes(count)}" for pool, count in sorted(tally.rivals.items()))
    cure = "change a node selector so that each node has one pool per unit"
    return "True", "Conflicted", f"same unit as pool {named}; {cure}"


def _no_nodes(pool: Pool) -> str:
    if pool.sompool.spec.node_selector is None:
        return "no node runs the agent; see the pods of the DaemonSet som-agent"
    return "no node has the labels of nodeSelector; compare kubectl get nodes --show-labels"


def _releasing(tally: Tally) -> str:
    releasing = tally.count(State.RELEASING)
    if not releasing:
        return "no node holds its memory"
    has = "has" if releasing == 1 else "have"
    return f"{_nodes(releasing)} still {has} its memory: {_name_nodes(tally, State.RELEASING)}"


def _name_nodes(tally: Tally, group: Group) -> str:
    """The first nodes of a group with what is missing there, and how many more there are."""
    named = [_name_node(node, tally) for node in tally.first(group, _NAMED_NODES)]
    rest = tally.count(group) - len(named)
    return "; ".join(named) + (f"; and {rest} more" if rest else "")


def _name_node(node: str, tally: Tally) -> str:
    detail = tally.on_nodes[node].detail
    return f"{node}: {detail}" if detail else node


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def holders(
    pool: str,
    *,
    nodes: Mapping[str, observed.Node],
    somnodes: Mapping[str, v1alpha1.SomNode | observed.UnreadableSomNode],
    lost_agents: Set[str] = frozenset(),
) -> list[str]:
    """Nodes whose SomNode shows the pool, in spec or status: its finalizer stays until none does.

    The memory of a deleted Node counts as released. While the operator knows no Node at all, it
    knows nothing about any of them.
    """
    return [
        name
        for name, somnode in somnodes.items()
        if (name in nodes or not nodes)
        and _holds(pool, nodes.get(name), somnode, agent_lost=name in lost_agents)
    ]


def _holds(
    pool: str,
    node: observed.Node | None,
    somnode: v1alpha1.SomNode | observed.UnreadableSomNode,
    *,
    agent_lost: bool,
) -> bool:
    """The operator takes an order back from a skipped node as well: its agent may return."""
    if isinstance(somnode, observed.UnreadableSomNode):
        return pool in somnode.pools
    if any(entry.name == pool for entry in somnode.spec.pools):
        return True
    has = any(held.name == pool for held in somnode.status.pools)
    return has and not reports.is_skipped(node, somnode, agent_lost=agent_lost)

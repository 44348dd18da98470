"""A SomPool's status: how the pool stands on each node, counted and put into conditions.

Ready is True when at least one match has its full capacity and every match whose kubelet is ready
has it. It is Unknown while no kubelet of a match is ready: silence is no information.
"""

import collections
import enum
from collections.abc import Mapping, Set
from typing import Final, Literal

from som_api import v1alpha1
from som_operator import observed, reports
from som_operator.reports import PoolOnNode, State
from som_operator.standing import Pool, Standing

_NAMED_NODES: Final = 3

_Verdict = tuple[Literal["True", "False", "Unknown"], str, str]
"""Status, reason and message of one condition."""


class _Silent(enum.Enum):
    """Nodes that report nothing, whatever the state of the pool there."""

    UNREACHABLE = enum.auto()
    UNSERVED = enum.auto()
    """They have lost their agent."""


_Groups = Mapping[State | _Silent, Mapping[str, PoolOnNode]]
"""A pool's nodes by name: every match is in one group, and RELEASING are no matches."""

# The first group that has nodes gives the reason.
_NOT_READY: Final[Mapping[State | _Silent, str]] = {
    State.CONFLICTED: "Conflicted",
    State.DEGRADED: "PartlyReserved",
    _Silent.UNSERVED: "AgentNotReady",
    State.RESERVING: "Reserving",
}
_DEGRADED: Final[Mapping[State | _Silent, tuple[str, str]]] = {
    State.DEGRADED: ("PartlyReserved", ""),
    _Silent.UNSERVED: ("AgentNotReady", ""),
    _Silent.UNREACHABLE: ("Unreachable", "kubelet is not ready: "),
}
_PROGRESSING: Final[Mapping[State | _Silent, str]] = {
    State.RESERVING: "Reserving",
    State.SHRINKING: "Shrinking",
}


def pool_status(pool: Pool, on_nodes: Mapping[str, PoolOnNode]) -> v1alpha1.SomPoolStatus:
    """The status of a pool. `on_nodes`: how it stands on each node, by the node's name."""
    groups = _group(on_nodes)
    verdicts = {
        "Ready": _ready(pool, groups),
        "Progressing": _progressing(pool, groups),
        "Degraded": _degraded(groups),
        "Conflicted": _conflicted(on_nodes),
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
            matched=_matched(groups),
            ready=_full(groups),
            degraded=_count(groups, State.DEGRADED, State.CONFLICTED, _Silent.UNSERVED),
            unreachable=_count(groups, _Silent.UNREACHABLE),
        ),
        capacity=min(v1alpha1.MOST_BYTES, sum(there.capacity_bytes for there in on_nodes.values())),
        allocated=min(
            v1alpha1.MOST_BYTES, sum(there.allocated_bytes for there in on_nodes.values())
        ),
    )


def _group(on_nodes: Mapping[str, PoolOnNode]) -> _Groups:
    groups: dict[State | _Silent, dict[str, PoolOnNode]] = {g: {} for g in (*State, *_Silent)}
    for node, there in sorted(on_nodes.items()):
        group: State | _Silent = there.state
        if group not in (State.RELEASING, State.CONFLICTED):
            if not there.kubelet_ready:
                group = _Silent.UNREACHABLE
            elif there.agent_lost:
                group = _Silent.UNSERVED
        groups[group][node] = there
    return groups


def _count(groups: _Groups, *which: State | _Silent) -> int:
    return sum(len(groups[group]) for group in which)


def _matched(groups: _Groups) -> int:
    return _count(groups, *groups) - _count(groups, State.RELEASING)


def _full(groups: _Groups) -> int:
    """Matches that have their full capacity, or more."""
    return _count(groups, State.RESERVED, State.SHRINKING)


def _ready(pool: Pool, groups: _Groups) -> _Verdict:
    matched = _matched(groups)
    wanted = v1alpha1.format_bytes(pool.entry.capacity)
    so_far = f"full capacity ({wanted}) on {_full(groups)} of {_nodes(matched)}"
    if pool.standing is Standing.RELEASED:
        return "False", "Releasing", f"the pool is being deleted; {_releasing(groups)}"
    if pool.sompool.spec.paused and pool.sompool.metadata.deletion_timestamp:
        return "False", "Paused", "the pool is deleted, but paused: set paused: false to release it"
    if not matched and pool.sompool.spec.paused:
        return "False", "Paused", "no node has memory of this pool; set paused: false to begin"
    if not matched:
        return "False", "NoNodes", _no_nodes(pool)
    for group, reason in _NOT_READY.items():
        if groups[group]:
            return "False", reason, f"{so_far}; {_name_nodes(groups[group])}"
    if not _full(groups):
        unreachable = _name_nodes(groups[_Silent.UNREACHABLE])
        return "Unknown", "Unreachable", f"no kubelet is ready: {unreachable}"
    return "True", "Reserved", so_far


def _progressing(pool: Pool, groups: _Groups) -> _Verdict:
    if pool.sompool.spec.paused:
        return "False", "Paused", "the pool is paused: nothing of it is changed anywhere"
    is_leaving = groups[State.RELEASING] and not groups[State.RESERVING]
    if pool.standing is Standing.RELEASED or is_leaving:
        return "True", "Releasing", _releasing(groups)
    for group, reason in _PROGRESSING.items():
        if groups[group]:
            return "True", reason, _name_nodes(groups[group])
    return "False", "Settled", "there is nothing to be done"


def _degraded(groups: _Groups) -> _Verdict:
    for group, (reason, what) in _DEGRADED.items():
        if groups[group]:
            return "True", reason, f"{what}{_name_nodes(groups[group])}"
    return "False", "AsOrdered", "no node lacks memory"


def _conflicted(on_nodes: Mapping[str, PoolOnNode]) -> _Verdict:
    rivals = collections.Counter(rival for there in on_nodes.values() for rival in there.rivals)
    if not rivals:
        return "False", "NoRival", "no other pool wants the same unit on a node of this pool"
    named = ", ".join(f"{pool} on {_nodes(count)}" for pool, count in sorted(rivals.items()))
    cure = "change a node selector so that each node has one pool per unit"
    return "True", "Conflicted", f"same unit as pool {named}; {cure}"


def _no_nodes(pool: Pool) -> str:
    if pool.sompool.spec.node_selector is None:
        return "no node runs the agent; see the pods of the DaemonSet som-agent"
    return "no node has the labels of nodeSelector; compare kubectl get nodes --show-labels"


def _releasing(groups: _Groups) -> str:
    releasing = groups[State.RELEASING]
    if not releasing:
        return "no node holds its memory"
    has = "has" if len(releasing) == 1 else "have"
    return f"{_nodes(len(releasing))} still {has} its memory: {_name_nodes(releasing)}"


def _name_nodes(group: Mapping[str, PoolOnNode]) -> str:
    """The first nodes of a group with what is missing there, and how many more there are."""
    named = [_name_node(node, there) for node, there in list(group.items())[:_NAMED_NODES]]
    rest = len(group) - len(named)
    return "; ".join(named) + (f"; and {rest} more" if rest else "")


def _name_node(node: str, there: PoolOnNode) -> str:
    return f"{node}: {there.detail}" if there.detail else node


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

"""How a SomPool there: how it stands on each node, counted and put into conditions.

Ready is True when at least one match has its full capacity and every match whose kubelet is ready
has it. It is Unknown while no kubelet of a match is ready: silence is no information.
"""

import dataclasses
from collections.abc import Mapping, Set
from typing import Final, Literal

from som_api import v1alpha1
from som_operator import observed, reports
from som_operator.reports import PoolOnNode, State
from som_operator.standing import Pool, Standing

_NAMED_NODES: Final = 3
_LONGEST_MESSAGE: Final = 1024

_Verdict = tuple[Literal["True", "False", "Unknown"], str, str]
"""Status, reason and message of one condition."""


def pool_status(pool: Pool, on_nodes: Mapping[str, PoolOnNode]) -> v1alpha1.SomPoolStatus:
    """The status of a pool; how it stands on each node is given by the node's name."""
    groups = _group(on_nodes)
    verdicts = {
        "Ready": _ready(pool, groups),
        "Progressing": _progressing(pool, groups),
        "Degraded": _degraded(groups),
        "Conflicted": _conflicted(groups),
    }
    generation = pool.sompool.metadata.generation
    return v1alpha1.SomPoolStatus(
        observed_generation=generation,
        conditions=tuple(
            v1alpha1.Condition(
                type=kind,
                status=status,
                reason=reason,
                message=message[:_LONGEST_MESSAGE],
                observed_generation=generation,
            )
            for kind, (status, reason, message) in verdicts.items()
        ),
        nodes=v1alpha1.NodeCounts(
            matched=groups.matched,
            ready=groups.ready,
            degraded=len(groups.degraded) + len(groups.conflicted) + len(groups.unserved),
            unreachable=len(groups.unreachable),
        ),
        capacity=min(v1alpha1.MOST_BYTES, sum(there.capacity_bytes for there in on_nodes.values())),
        allocated=min(
            v1alpha1.MOST_BYTES, sum(there.allocated_bytes for there in on_nodes.values())
        ),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Groups:
    """A pool's nodes: every match is in one of the first seven groups. `rivals` are pools.

    Those of `unserved` have lost their agent.
    """

    reserved: Mapping[str, PoolOnNode]
    shrinking: Mapping[str, PoolOnNode]
    unserved: Mapping[str, PoolOnNode]
    reserving: Mapping[str, PoolOnNode]
    degraded: Mapping[str, PoolOnNode]
    conflicted: Mapping[str, PoolOnNode]
    unreachable: Mapping[str, PoolOnNode]
    releasing: Mapping[str, PoolOnNode]
    rivals: Mapping[str, int]

    @property
    def matched(self) -> int:
        return sum(
            len(group)
            for group in (
                self.reserved,
                self.shrinking,
                self.unserved,
                self.reserving,
                self.degraded,
                self.conflicted,
                self.unreachable,
            )
        )

    @property
    def ready(self) -> int:
        """Matches that have their full capacity: more than it is no trouble."""
        return len(self.reserved) + len(self.shrinking)


def _group(on_nodes: Mapping[str, PoolOnNode]) -> _Groups:
    by_state: dict[State, dict[str, PoolOnNode]] = {state: {} for state in State}
    unreachable: dict[str, PoolOnNode] = {}
    unserved: dict[str, PoolOnNode] = {}
    rivals: dict[str, int] = {}
    for node, there in sorted(on_nodes.items()):
        if there.state in (State.RELEASING, State.CONFLICTED):
            by_state[there.state][node] = there
        elif not there.kubelet_ready:
            unreachable[node] = there
        elif there.agent_lost:
            unserved[node] = there
        else:
            by_state[there.state][node] = there
        for rival in there.rivals:
            rivals[rival] = rivals.get(rival, 0) + 1
    return _Groups(
        reserved=by_state[State.RESERVED],
        shrinking=by_state[State.SHRINKING],
        unserved=unserved,
        reserving=by_state[State.RESERVING],
        degraded=by_state[State.DEGRADED],
        conflicted=by_state[State.CONFLICTED],
        unreachable=unreachable,
        releasing=by_state[State.RELEASING],
        rivals=rivals,
    )


def _ready(pool: Pool, groups: _Groups) -> _Verdict:
    matched = groups.matched
    wanted = v1alpha1.format_bytes(pool.entry.capacity)
    so_far = f"full capacity ({wanted}) on {groups.ready} of {_nodes(matched)}"
    if pool.standing is Standing.RELEASED:
        return "False", "Releasing", f"the pool is being deleted; {_releasing(groups)}"
    if pool.sompool.spec.paused and pool.sompool.metadata.deletion_timestamp:
        return "False", "Paused", "the pool is deleted, but paused: set paused: false to release it"
    if not matched and pool.sompool.spec.paused:
        return "False", "Paused", "no node has memory of this pool; set paused: false to begin"
    if not matched:
        return "False", "NoNodes", _no_nodes(pool)
    if groups.conflicted:
        return "False", "Conflicted", f"{so_far}; {_name_nodes(groups.conflicted)}"
    if groups.degraded:
        return "False", "PartlyReserved", f"{so_far}; {_name_nodes(groups.degraded)}"
    if groups.unserved:
        return "False", "AgentNotReady", f"{so_far}; {_name_nodes(groups.unserved)}"
    if groups.reserving:
        return "False", "Reserving", f"{so_far}; {_name_nodes(groups.reserving)}"
    if not groups.ready:
        return "Unknown", "Unreachable", f"no kubelet is ready: {_name_nodes(groups.unreachable)}"
    return "True", "Reserved", so_far


def _progressing(pool: Pool, groups: _Groups) -> _Verdict:
    if pool.sompool.spec.paused:
        return "False", "Paused", "the pool is paused: nothing of it is changed anywhere"
    if pool.standing is Standing.RELEASED or (groups.releasing and not groups.reserving):
        return "True", "Releasing", _releasing(groups)
    if groups.reserving:
        return "True", "Reserving", _name_nodes(groups.reserving)
    if groups.shrinking:
        return "True", "Shrinking", _name_nodes(groups.shrinking)
    return "False", "Settled", "there is nothing to be done"


def _degraded(groups: _Groups) -> _Verdict:
    if groups.degraded:
        return "True", "PartlyReserved", _name_nodes(groups.degraded)
    if groups.unserved:
        return "True", "AgentNotReady", _name_nodes(groups.unserved)
    if groups.unreachable:
        return "True", "Unreachable", f"kubelet is not ready: {_name_nodes(groups.unreachable)}"
    return "False", "AsOrdered", "no node lacks memory"


def _conflicted(groups: _Groups) -> _Verdict:
    if not groups.rivals:
        return "False", "NoRival", "no other pool wants the same unit on a node of this pool"
    named = ", ".join(f"{pool} on {_nodes(count)}" for pool, count in sorted(groups.rivals.items()))
    cure = "change a node selector so that each node has one pool per unit"
    return "True", "Conflicted", f"same unit as pool {named}; {cure}"


def _no_nodes(pool: Pool) -> str:
    if pool.sompool.spec.node_selector is None:
        return "no node runs the agent; see the pods of the DaemonSet som-agent"
    return "no node has the labels of nodeSelector; compare kubectl get nodes --show-labels"


def _releasing(groups: _Groups) -> str:
    if not groups.releasing:
        return "no node holds its memory"
    held = len(groups.releasing)
    return f"{_nodes(held)} still {_have(held)} its memory: {_name_nodes(groups.releasing)}"


def _name_nodes(group: Mapping[str, PoolOnNode]) -> str:
    """The first nodes of a group with what is missing there, and how many more there are."""
    named = [_name_node(node, there) for node, there in list(group.items())[:_NAMED_NODES]]
    rest = len(group) - len(named)
    return "; ".join(named) + (f"; and {rest} more" if rest else "")


def _name_node(node: str, there: PoolOnNode) -> str:
    return f"{node}: {there.detail}" if there.detail else node


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def holders(
    pool: str,
    *,
    nodes: Mapping[str, observed.Node],
    somnodes: Mapping[str, v1alpha1.SomNode | observed.UnreadableSomNode],
    lost_agents: Set[str] = frozenset(),
) -> list[str]:
    """Nodes whose SomNode shows the pool, in spec or status: its finalizer stays until none does.

    The memory of a deleted Node counts as released. While no Node at all is known, that is no
    information about any of them.
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
    """An order is taken back also from a node that is skipped: its agent may return."""
    if isinstance(somnode, observed.UnreadableSomNode):
        return pool in somnode.pools
    if any(entry.name == pool for entry in somnode.spec.pools):
        return True
    has = any(held.name == pool for held in somnode.status.pools)
    return has and not reports.is_skipped(node, somnode, agent_lost=agent_lost)

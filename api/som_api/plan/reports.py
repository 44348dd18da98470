"""What an agent's report says about each pool of its node.

A report counts only for the boot it was made in: at a reboot the memory is lost, whatever the
SomNode still says. For the capacity in node status it must be about the latest spec, too.
"""

import dataclasses
import enum
from typing import Final

from som_api import v1alpha1
from som_api.plan import observed, runtimes

SKIP_RELEASE: Final = f"{v1alpha1.GROUP}/skip-release"
"""Annotation of a SomNode: "true" lets a pool be deleted while the node, from which nothing can be
heard, has its memory still. The agent gives it back when it returns."""

_MOST_BYTES: Final = 2**47
"""No node has more memory than 128 TiB; a report that says so says nothing about its pool."""

DRIVER_CONDITION: Final = "DriverLoaded"
_NOT_LOADED: Final = "DriverNotLoaded"
_STILL_AT_IT: Final = ("Reserving", "Releasing")


class State(enum.StrEnum):
    """How a pool stands on one node."""

    RESERVED = "reserved"
    RESERVING = "reserving"
    DEGRADED = "degraded"
    SHRINKING = "shrinking"
    """It has what it should have, and more."""
    CONFLICTED = "conflicted"
    RELEASING = "releasing"


@dataclasses.dataclass(frozen=True, slots=True)
class PoolOnNode:
    """One pool on one node. A node that the pool has left, but not its memory, is RELEASING.

    `detail` says for people what is missing; `rivals` are the pools that want the same unit.
    `agent_lost` says that nothing of it can be used or changed now, whatever the state.
    """

    state: State
    detail: str = ""
    kubelet_ready: bool = True
    agent_lost: bool = False
    capacity_bytes: int = 0
    allocated_bytes: int = 0
    rivals: tuple[str, ...] = ()


def is_skipped(
    node: observed.Node | None, somnode: v1alpha1.SomNode, *, agent_lost: bool = False
) -> bool:
    """Whether an admin does not want to wait for the node, from which nothing can be heard."""
    wanted = somnode.metadata.annotations.get(SKIP_RELEASE) == "true"
    return node is not None and (agent_lost or not node.ready) and wanted


class Report:
    """One node's report; `somnode` is None, or without a status, where nothing was reported."""

    def __init__(
        self, node: observed.Node, somnode: v1alpha1.SomNode | None, *, agent_lost: str = ""
    ) -> None:
        self._node = node
        self._agent_lost = agent_lost
        self._is_skipped = somnode is not None and is_skipped(
            node, somnode, agent_lost=bool(agent_lost)
        )
        self._status = somnode.status if somnode else v1alpha1.SomNodeStatus()
        self._of_this_boot = self._status.boot_id == node.boot_id != ""
        self._is_fresh = (
            self._of_this_boot
            and somnode is not None
            and self._status.observed_generation == somnode.metadata.generation
        )
        self.pools = {pool.name: pool for pool in self._status.pools}

    @property
    def exists(self) -> bool:
        """Whether an agent has ever reported on this SomNode."""
        return self._status.observed_generation is not None

    def predecessor(self, entry: v1alpha1.NodePool) -> str | None:
        """The pool that still has memory here which `entry` would come on top of, if any."""
        for pool in self._status.pools:
            if (pool.unit == entry.unit) != (pool.name == entry.name):
                return pool.name
        return None

    def reserved_units(self, entry: v1alpha1.NodePool) -> int | None:
        """Units that `entry` has, by a fresh report; None where there is none."""
        pool = self.pools.get(entry.name)
        if not self._is_fresh or pool is None or pool.unit != entry.unit:
            return None
        return pool.capacity // v1alpha1.UNIT_BYTES[entry.unit]

    def serving(self, entry: v1alpha1.NodePool) -> PoolOnNode:
        """How the pool of `entry` stands."""
        pool = self.pools.get(entry.name)
        if trouble := runtimes.trouble(self._node):
            return self._pool(entry.name, State.DEGRADED, trouble)
        if not self.exists:
            return self._pool(entry.name, State.RESERVING, "the agent has not reported yet")
        if not self._of_this_boot:
            return self._pool(
                entry.name, State.RESERVING, "the agent has not reported since the node booted"
            )
        if pool is None or pool.unit != entry.unit:
            return self._pool(entry.name, State.RESERVING, "the agent has not begun yet")
        if pool.capacity >= entry.capacity:
            units = entry.capacity // v1alpha1.UNIT_BYTES[entry.unit]
            if self._node.units.get(entry.unit, 0) < units:
                return self._pool(entry.name, State.RESERVING, "not in the node's capacity yet")
            if pool.capacity > entry.capacity:
                return self._pool(entry.name, State.SHRINKING, _excess(pool, entry))
            return self._pool(entry.name, State.RESERVED)
        progress = (
            f"{v1alpha1.format_bytes(pool.capacity)} of {v1alpha1.format_bytes(entry.capacity)}"
        )
        for condition in pool.conditions:
            is_settled = condition.status == "False" and condition.reason not in _STILL_AT_IT
            if condition.type == "Ready" and is_settled:
                # The agent begins with the same numbers, and pools of the last version, too.
                excuse = condition.message.removeprefix(f"{progress}: ")
                state, excuse = self._of_driver(condition) or (State.DEGRADED, excuse)
                return self._pool(entry.name, state, f"{progress}: {excuse}")
        return self._pool(entry.name, State.RESERVING, progress)

    def _of_driver(self, ready: v1alpha1.Condition) -> tuple[State, str] | None:
        """What a pool that lacks som.ko waits for, or why in vain; None: another trouble.

        The operator's own condition knows more of it than the agent.
        """
        loaded = (each for each in self._status.conditions if each.type == DRIVER_CONDITION)
        if ready.reason != _NOT_LOADED or (known := next(loaded, None)) is None:
            return None
        if known.status == "True":
            return State.RESERVING, "the agent has not seen som.ko yet"
        return State.DEGRADED if known.status == "False" else State.RESERVING, known.message

    def waiting(self, name: str, predecessor: str) -> PoolOnNode:
        """How the pool `name` stands while it waits until `predecessor` has no memory."""
        return self._pool(
            name, State.RESERVING, f"waits for pool {predecessor} to give its memory back"
        )

    def conflicted(self, name: str, *, holder: str) -> PoolOnNode:
        """How the pool `name` stands whose unit `holder` feeds."""
        here = self._pool(name, State.CONFLICTED, f"pool {holder} has this unit here")
        return dataclasses.replace(here, rivals=(holder,))

    def leaving(self, name: str) -> PoolOnNode:
        """How the pool `name` stands while it gives up its memory here."""
        pool = self.pools.get(name)
        silent = "" if self._node.ready else "kubelet is not ready"
        silent = silent or self._agent_lost
        if silent and self._is_skipped:
            detail = f"{silent}; skipped, because {SKIP_RELEASE} is true"
        elif silent:
            detail = (
                f"{silent}; to skip the node: "
                f"kubectl annotate somnode {self._node.name} {SKIP_RELEASE}=true"
            )
        elif pool and pool.allocated:
            detail = f"containers hold {v1alpha1.format_bytes(pool.allocated)}"
        else:
            detail = "the agent has not let go yet"
        return self._pool(name, State.RELEASING, detail)

    def _pool(self, name: str, state: State, detail: str = "") -> PoolOnNode:
        pool = self.pools.get(name) if self._of_this_boot else None
        lost = bool(self._agent_lost) and state not in (State.RELEASING, State.CONFLICTED)
        return PoolOnNode(
            state=state,
            detail=self._agent_lost if lost else detail,
            kubelet_ready=self._node.ready,
            agent_lost=lost,
            capacity_bytes=min(pool.capacity, _MOST_BYTES) if pool else 0,
            allocated_bytes=min(pool.allocated, _MOST_BYTES) if pool else 0,
        )


def _excess(pool: v1alpha1.PoolStatus, entry: v1alpha1.NodePool) -> str:
    has, wanted = v1alpha1.format_bytes(pool.capacity), v1alpha1.format_bytes(entry.capacity)
    held = f", of which containers hold {v1alpha1.format_bytes(pool.allocated)}"
    return f"{has} until {wanted}{held if pool.allocated > entry.capacity else ''}"

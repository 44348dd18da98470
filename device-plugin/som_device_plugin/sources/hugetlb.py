"""The HugeTLB source: huge pages of the kernel, added on top of what others have."""

import dataclasses
import pathlib
import sqlite3
from collections.abc import Callable, Mapping

from som_api import v1alpha1
from som_device_plugin import SomError, seams
from som_device_plugin.sources import plan


class SourceError(SomError):
    """The source could not do what it was asked for; nothing was taken by the failed step."""


class Refused(SourceError):
    """What was asked for may not be done on this node as it is; nothing was taken."""


@dataclasses.dataclass(frozen=True)
class PoolReserved:
    """What a pool really has.

    `capacity_bytes` is what leases can ever hold: the hold's `free_bytes` and what starts hold
    now. `node_bytes` is the pool's share per NUMA node. `shortfall` says why the capacity is less
    than what was last applied, as `37.5Gi of 64Gi: no contiguous memory on NUMA node 1`, or "".
    """

    pool: str
    capacity_bytes: int
    free_bytes: int
    node_bytes: Mapping[int, int]
    shortfall: str


class HugeTLBSource:
    """Pools of huge pages, kept from everybody else by a hold each.

    Calls may overlap: they take turns between steps of at most 1 GiB. Every write to the kernel
    follows a durable intention, so the process may die anywhere.

    Args:
        connection: a connection to the agent's store for the source alone.
        state_dir: where the holds are mounted, under `holds/`.
        boot_id: this boot; records of others are void.
        guard: what stays available for the rest of the node.
    """

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        state_dir: pathlib.Path,
        boot_id: str,
        guard: plan.Guard,
    ) -> None:
        raise NotImplementedError

    async def apply(
        self,
        pool: v1alpha1.NodePool,
        *,
        held_bytes: int,
        on_progress: Callable[[int], None],
    ) -> PoolReserved:
        """Grow or shrink `pool` towards its capacity, evenly over the NUMA nodes.

        Never shrinks below `held_bytes` (what is promised to pods) or what starts hold. Falls
        short with a message, not an error. Calls `on_progress(capacity bytes)` after each step.
        Cancelling keeps what was had until then.

        Raises:
            Refused: the growth passes the guard, or overcommit is on, or the page size changed.
            SourceError: the kernel refused otherwise, with what it answered.
        """
        raise NotImplementedError

    async def release(self, pool: str) -> None:
        """Give all pages of `pool` back and forget it. Idempotent.

        Raises:
            Refused: starts still hold memory of the pool.
        """
        raise NotImplementedError

    async def check(self) -> tuple[list[seams.Event], Mapping[str, PoolReserved]]:
        """The cycle: repair the counters that others wrote, refill the holds, say what is there."""
        raise NotImplementedError

    async def refill(self, pool: str) -> PoolReserved:
        """Put what starts no longer hold back into the pool's hold: after every release."""
        raise NotImplementedError

    def reserved(self, pool: str) -> PoolReserved:
        """What `pool` has now; writes nothing. All zero for a pool that is not known."""
        raise NotImplementedError

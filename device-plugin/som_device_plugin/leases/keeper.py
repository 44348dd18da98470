"""Keeps spares in the pools that gain by them, and gives them to starts (see `spares`).

What pods left for their successors is given and ended here as well.

One is built at a time, when nothing has changed for a moment and no container waits: the worker
takes half of one core at most.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Collection, Iterator
from typing import Final

from som_api import v1alpha1
from som_api.run import backoff, clock
from som_device_plugin import changes, loops, pools, seams
from som_device_plugin.leases import spares, starts, state

log = logging.getLogger(__name__)

QUIET_S: Final = 1.0
"""Builds wait so long after a change: what follows from a container's start or end comes first."""

RETRY_S: Final = 10.0
LONGEST_RETRY_S: Final = 300.0
"""Between builds that fail."""


class Keeper:
    """The spares of all pools. One of a node."""

    def __init__(
        self,
        *,
        own_starts: starts.Starts,
        own_pools: pools.Pools,
        changed: changes.Changes,
        time: clock.Clock,
    ) -> None:
        self._starts = own_starts
        self._store = own_starts.leases
        self._pools = own_pools
        self._time = time
        self._changed = changed.listen()
        self._changed.set()
        self._waiting = 0
        # Who ends spares does it alone: what the others need may be on its way back.
        self._ending = asyncio.Lock()
        self._build: starts.Build | None = None
        self._pauses = backoff.Backoff(
            jitter=random.Random(), first_s=RETRY_S, longest_s=LONGEST_RETRY_S
        )
        self._build_at_s = self._time.monotonic()

    @contextlib.contextmanager
    def container_waits(self) -> Iterator[None]:
        """Inside the block, no spare is begun that could take what a container waits for."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._changed.set()

    async def adopt(
        self, lease: state.Lease, pool: pools.ActivePool, *, node: int
    ) -> state.StartRecord | None:
        """The bound `lease`'s next start: what was left for it, or else a spare; None: neither."""
        while True:
            spare = self._left_for(lease, pool) or self._zeroed_for(lease, pool, node)
            if spare is None or spare.live is None:
                return None
            is_intact = await self._starts.intact(spare.live)
            now = self._store.lease(lease.lease_id)
            if now is None or now.ended:
                return None
            if self._store.lease(spare.lease_id) != spare:
                continue
            if is_intact:
                said = "kept content adopted" if spare.is_kept else "spare adopted"
                log.info(said, extra={"lease": lease.lease_id, "spare": spare.lease_id})
                return self._starts.adopt(spare.lease_id, lease)
            async with self._ending:
                await self._end([spare.lease_id])

    def _left_for(self, lease: state.Lease, pool: pools.ActivePool) -> state.Lease | None:
        now_s = self._time.now().timestamp()
        left = spares.left_for(lease, self._store.leases(), now_s=now_s)
        return left if left and left.live and left.live.start.pool == pool.name else None

    def _zeroed_for(
        self, lease: state.Lease, pool: pools.ActivePool, node: int
    ) -> state.Lease | None:
        assert lease.request is not None
        ready = spares.of_pool(self._store.leases(), pool.name, state.State.READY)
        size_bytes, free_bytes = lease.request.size_bytes, self._starts.free_bytes(pool)
        chosen = spares.choose(ready, size_bytes=size_bytes, node=node, free_bytes=free_bytes)
        return self._store.lease(chosen.lease_id) if chosen else None

    async def make_room(self, unit: v1alpha1.Unit, size_bytes: int) -> None:
        """End the spares without which `unit` has `size_bytes` free, if that is enough.

        Again, if another start was faster.
        """
        async with self._ending:
            pool = self._pools.for_unit(unit)
            if pool and self._starts.free_bytes(pool) < size_bytes:
                # What is cut off comes back by itself.
                await self._starts.cut(pool)
                await self._pools.refill()
            while (pool := self._pools.for_unit(unit)) and (
                chosen := spares.make_room(
                    spares.of_pool(self._store.leases(), pool.name),
                    size_bytes - self._starts.free_bytes(pool),
                )
            ):
                await self._end([spare.lease_id for spare in chosen])

    async def _end(self, lease_ids: Collection[seams.LeaseId]) -> None:
        """Have the memory of spares back in the pools, which know it then."""
        for lease_id in lease_ids:
            await self._starts.end_spare(lease_id)
        if lease_ids:
            await self._pools.refill()

    async def run(self) -> None:
        """Follow the pools, and what their starts ask for; runs until cancelled."""
        await loops.repeat("spares", self._look, time=self._time)

    async def _look(self) -> None:
        now_s = self._time.now().timestamp()
        pauses_s = [self._build_at_s - self._time.monotonic()] + [
            lease.kept_until_s - now_s
            for lease in self._store.leases()
            if lease.kept_until_s is not None
        ]
        pause_s = min((each for each in pauses_s if each > 0), default=None)
        await loops.wait(self._changed, at_most_s=pause_s, time=self._time)
        now_s = self._time.monotonic()
        if self._changed.is_set() and now_s >= self._build_at_s:
            self._build_at_s = now_s + QUIET_S
        self._changed.clear()
        try:
            await self.keep()
        except Exception:
            self._changed.set()
            raise

    async def keep(self) -> None:
        """End what is not wanted, and begin the next build if it is time."""
        async with self._ending:
            await self._keep()

    async def _keep(self) -> None:
        self._finish_build()
        now_s = self._time.now().timestamp()
        await self._end(spares.in_vain(self._store.leases(), now_s=now_s))
        for pool in list(self._pools.pools().values()):
            if not self._starts.driver(pool).zeroes_at_build:
                continue
            plan = self._plan(pool)
            await self._end(plan.end)
            if plan.build and self._may_build(pool):
                # What is free was last looked at before.
                await self._pools.refill()
                pool = self._pools.pools().get(pool.name, pool)
                wish = self._plan(pool).build
                if wish and self._may_build(pool):
                    lease_id = seams.LeaseId(secrets.token_hex(8))
                    self._build = self._starts.begin_spare(lease_id, pool, wish)

    def _finish_build(self) -> None:
        if self._build is None or not self._build.task.done():
            return
        if self._build.error:
            self._build_at_s = self._time.monotonic() + self._pauses.next_s()
        else:
            self._pauses.reset()
        self._build = None

    def _may_build(self, pool: pools.ActivePool) -> bool:
        is_waited_for = self._waiting or any(
            record.state is state.State.BUILDING
            for lease in self._store.leases()
            for record in lease.starts
        )
        return (
            pool.state is not pools.State.RESERVING
            and not is_waited_for
            and self._time.monotonic() >= self._build_at_s
        )

    def _plan(self, pool: pools.ActivePool) -> spares.Plan:
        here = spares.of_pool(self._store.leases(), pool.name)
        if pool.is_leaving or pool.capacity_bytes > pool.order.capacity:
            # Its free pages go back to the node.
            return spares.Plan(end=tuple(spare.lease_id for spare in here))
        if pool.order.warm is None:
            wishes = spares.expected(self._store.asked(pool.name))
        else:
            nodes = sorted(node for node, size in pool.reserved.node_bytes.items() if size)
            wishes = spares.named(pool.order.warm, nodes)
        node_bytes: dict[int | None, int] = dict(pool.reserved.node_bytes.items())
        for lease in self._store.leases():
            for record in lease.starts:
                node = record.start.preferred_node
                if record.start.pool == pool.name and node in node_bytes:
                    node_bytes[node] -= record.start.size_bytes
        return spares.plan(wishes, here, free_bytes=pool.free_bytes, node_bytes=node_bytes)

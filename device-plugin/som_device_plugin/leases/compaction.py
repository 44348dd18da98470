"""Makes pages of 1 GiB in pools of som.ko: of free memory, and of what containers use by 2 MiB.

A mapping gets a page of 1 GiB where a whole GiB is free, and huge pages of 1 GiB go back whole.
So a pool gains when somebody can use them, and its free memory could be in one GiB more than it
is. First that is made so; then som.ko is asked to promote what containers use, for which it moves
what is scattered into whole GiB. It alone knows of what that is true.

A pool where nothing more moves is left alone until it changes, or for a minute. Moves take
32 MiB a second of a node.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from som_api import SomError, v1alpha1
from som_api.run import clock
from som_device_plugin import loops, metrics, pools
from som_device_plugin.leases import starts

EVERY_S: Final = 1.0
MOST_BYTES: Final = 32 << 20
"""In `EVERY_S`: who moves more than that rests for longer."""
REST_S: Final = 60.0

_GIB: Final = v1alpha1.UNIT_BYTES["1Gi"]


def is_worth_it(pool: pools.ActivePool, sizes: Iterable[int]) -> bool:
    """Whether `pool` gains by more whole GiB; `sizes`: bytes that its containers have or had."""
    whole_bytes = pool.reserved.whole_free_bytes
    if whole_bytes is None or pool.free_bytes - whole_bytes < _GIB:
        return False
    return pool.state is pools.State.SETTLED and (
        pool.order.unit == "1Gi"
        or pool.capacity_bytes > pool.order.capacity
        or max(sizes, default=0) >= _GIB
    )


def may_promote(pool: pools.ActivePool, sizes: Iterable[int]) -> bool:
    """Whether containers of `sizes` can have GiB to promote, and no whole one is to go back."""
    return (
        pool.reserved.whole_free_bytes is not None
        and pool.state is pools.State.SETTLED
        and pool.capacity_bytes <= pool.order.capacity
        and max(sizes, default=0) >= _GIB
    )


class Compaction:
    """That of all pools. One of a node."""

    def __init__(
        self, *, own_starts: starts.Starts, own_pools: pools.Pools, time: clock.Clock
    ) -> None:
        self._starts = own_starts
        self._pools = own_pools
        self._time = time
        # In the last round.
        self._moved_bytes = 0
        # By name, the pool when nothing more moved, and until when it is left alone.
        self._rests: dict[str, tuple[pools.ActivePool, float]] = {}

    async def run(self) -> None:
        """Follow the pools; runs until cancelled."""
        await loops.repeat("compaction", self._step, time=self._time)

    async def _step(self) -> None:
        loops.rest()
        await self._time.sleep(EVERY_S * max(1.0, self._moved_bytes / MOST_BYTES))
        self._moved_bytes = 0
        for pool in list(self._pools.pools().values()):
            rested, until_s = self._rests.get(pool.name, (None, 0.0))
            if rested == pool and self._time.monotonic() < until_s:
                continue
            if await self._move(pool, self._compact) < MOST_BYTES:
                await self._move(pool, self._promote)
                self._rests[pool.name] = pool, self._time.monotonic() + REST_S

    async def _move(
        self, pool: pools.ActivePool, how: Callable[[pools.ActivePool], Awaitable[int]]
    ) -> int:
        # som.ko may be adding memory just then, which can take half a minute.
        loops.rest()
        try:
            moved_bytes = await how(pool)
        except SomError as error:
            loops.failed("compaction", error, pool=pool.name)
            moved_bytes = 0
        self._moved_bytes += moved_bytes
        loops.beat()
        return moved_bytes

    async def _compact(self, pool: pools.ActivePool) -> int:
        asked = (wish.size_bytes for wish, _ in self._starts.leases.asked(pool.name))
        if not is_worth_it(pool, [*asked, *self._sizes(pool)]):
            return 0
        compact = self._starts.driver(pool).compact
        return await asyncio.to_thread(compact, pool.name, most_bytes=MOST_BYTES)

    async def _promote(self, pool: pools.ActivePool) -> int:
        if not may_promote(pool, self._sizes(pool)):
            return 0
        promote = self._starts.driver(pool).promote
        # As much as one GiB takes of which nothing is in its place.
        done = await asyncio.to_thread(promote, pool.name, most_bytes=_GIB)
        metrics.PROMOTIONS.labels(pool=pool.name).inc(done.asked_bytes / _GIB)
        return done.moved_bytes

    def _sizes(self, pool: pools.ActivePool) -> list[int]:
        """What starts of `pool` have now."""
        starts_now = (each.start for lease in self._starts.leases.leases() for each in lease.starts)
        return [start.size_bytes for start in starts_now if start.pool == pool.name]

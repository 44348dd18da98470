"""Makes scattered free memory of pools in som.ko whole again, by moving what containers use.

A mapping gets a page of 1 GiB where a whole GiB is free, and huge pages of 1 GiB go back whole.
So a pool gains when somebody can use them, and its free memory could be in one GiB more than it
is. It costs as little as 32 MiB a second, and ends with the gain, or when som.ko finds nothing
more to move: then the pool is left alone until what it has changes.
"""

import logging
from typing import Final

from som_api import SomError, v1alpha1
from som_api.run import clock
from som_device_plugin import loops, pools, seams
from som_device_plugin.leases import spares, starts

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
MOST_BYTES: Final = 32 << 20

_GIB: Final = v1alpha1.UNIT_BYTES["1Gi"]


def is_worth_it(pool: pools.ActivePool, asked: spares.History) -> bool:
    """Whether `pool` gains by more whole GiB; `asked` is what its last starts asked for."""
    has = pool.reserved
    if has.whole_free_bytes is None or has.free_bytes - has.whole_free_bytes < _GIB:
        return False
    if pool.is_leaving or pool.state is pools.State.RESERVING:
        return False
    return (
        pool.order.unit == "1Gi"
        or pool.capacity_bytes > pool.order.capacity
        or any(wish.size_bytes >= _GIB for wish, _ in asked)
    )


class Compaction:
    """That of all pools. One of a node."""

    def __init__(
        self, *, own_starts: starts.Starts, own_pools: pools.Pools, time: clock.Clock
    ) -> None:
        self._starts = own_starts
        self._pools = own_pools
        self._time = time
        # By pool, what it had when there was nothing more to move.
        self._done: dict[str, seams.PoolReserved] = {}

    async def run(self) -> None:
        """Follow the pools; runs until cancelled."""
        await loops.repeat("compaction", self._step, time=self._time)

    async def _step(self) -> None:
        await self._time.sleep(EVERY_S)
        for pool in list(self._pools.pools().values()):
            if self._done.get(pool.name) == pool.reserved:
                continue
            self._done.pop(pool.name, None)
            if is_worth_it(pool, self._starts.leases.asked(pool.name)):
                await self._move(pool)

    async def _move(self, pool: pools.ActivePool) -> None:
        # som.ko may be adding memory just then, which can take half a minute.
        loops.rest()
        try:
            moved_bytes = await self._starts.compact(pool, most_bytes=MOST_BYTES)
        except SomError as error:
            loops.failed("compaction", error, pool=pool.name)
            moved_bytes = 0
        if moved_bytes < MOST_BYTES:
            self._done[pool.name] = pool.reserved
        loops.beat()

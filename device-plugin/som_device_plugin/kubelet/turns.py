"""Keeps Allocates and PodResources Lists apart.

Kubelet marks a device as taken before it calls Allocate and enters it in its books afterwards. A
List in between drops the mark when an old pod has ended, and the next pod is given the same
device (kubelet 1.34 to 1.37: `UpdateAllocatedDevices` in pkg/kubelet/cm/devicemanager). Another
client's List can still do that; `GetPreferredAllocation` then chooses another ticket.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from som_api.run import clock
from som_device_plugin import seams

SETTLE_S: Final = 0.01
"""How long after an Allocate kubelet may still be writing its books."""

ALLOCATE_PATIENCE_S: Final = 1.0
"""How long an Allocate waits for a List to end: kubelet admits nothing meanwhile."""


class Turns:
    """Allocates come first and may overlap; Lists run one by one, and never beside an Allocate."""

    def __init__(self, *, time: clock.Clock) -> None:
        self._time = time
        self._allocates = 0
        self._no_allocate = asyncio.Event()
        self._no_allocate.set()
        self._list = asyncio.Lock()
        self._settled_at = 0.0
        self._settling: frozenset[seams.Ticket] = frozenset()

    @contextlib.asynccontextmanager
    async def allocating(self, tickets: Sequence[seams.Ticket] = ()) -> AsyncIterator[None]:
        """From the time kubelet chooses `tickets` until it has entered them in its books."""
        self._allocates += 1
        self._no_allocate.clear()
        try:
            with contextlib.suppress(TimeoutError):
                async with self._time.timeout(ALLOCATE_PATIENCE_S), self._list:
                    pass
            yield
        finally:
            self._settled_at = self._time.monotonic() + SETTLE_S
            self._settling = frozenset(tickets)
            self._allocates -= 1
            if self._allocates == 0:
                self._no_allocate.set()

    def starting(self, tickets: Sequence[seams.Ticket]) -> None:
        """Kubelet starts a container with `tickets`: so they are in its books."""
        if self._settling and self._settling <= set(tickets):
            self._settled_at = 0.0

    @contextlib.asynccontextmanager
    async def listing(self) -> AsyncIterator[None]:
        """Waits until no Allocate is in flight, and lets none begin until the List has ended."""
        while True:
            await self._no_allocate.wait()
            await self._time.sleep(max(0.0, self._settled_at - self._time.monotonic()))
            async with self._list:
                if self._allocates == 0 and self._time.monotonic() >= self._settled_at:
                    yield
                    return

"""A lease core without memory behind it: answers kubelet's calls as a test wants them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fakes.clock import FakeClock
from som_api import SomError
from som_device_plugin import seams
from som_device_plugin.kubelet import plugin, registration


class FakeTickets:
    """Implements `seams.TicketService`; `set_devices` announces a change."""

    def __init__(self, devices: Sequence[seams.TicketDevice]) -> None:
        self.allocated: list[seams.Ticket] = []
        self.started: list[seams.Ticket] = []
        self.allocate_waits_for = asyncio.Event()
        self.allocate_waits_for.set()
        self.waiting = 0
        self.allocate_error: SomError | None = None
        self.refusals: list[SomError] = []
        self._devices = tuple(devices)
        self._changed = asyncio.Event()

    def set_devices(self, devices: Sequence[seams.TicketDevice]) -> None:
        self._devices = tuple(devices)
        self._changed.set()

    def devices(self) -> Sequence[seams.TicketDevice]:
        self._changed.clear()
        return self._devices

    async def changed(self) -> None:
        await self._changed.wait()

    def preferred(
        self, *, available: Sequence[seams.Ticket], must_include: Sequence[seams.Ticket], size: int
    ) -> Sequence[seams.Ticket]:
        return [*must_include, *sorted(set(available) - set(must_include), reverse=True)][:size]

    async def allocate(self, tickets: Sequence[seams.Ticket]) -> seams.LeaseId:
        self.waiting += 1
        await self.allocate_waits_for.wait()
        self.waiting -= 1
        if self.allocate_error:
            raise self.allocate_error
        self.allocated.extend(tickets)
        return seams.LeaseId(f"lease-of-{tickets[0]}")

    async def pre_start(self, tickets: Sequence[seams.Ticket]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.started.extend(tickets)


def device(ticket: str, *, healthy: bool = True, numa_node: int = 0) -> seams.TicketDevice:
    return seams.TicketDevice(seams.Ticket(ticket), healthy=healthy, numa_node=numa_node)


@contextlib.asynccontextmanager
async def running(
    device_plugin: plugin.DevicePlugin, directory: Path, clock: FakeClock
) -> AsyncIterator[None]:
    """The plugin as the agent runs it, kept registered with the kubelet of `directory`."""
    kept = registration.Registration(device_plugin, directory=directory, time=clock)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(device_plugin.run()), group.create_task(kept.run())]
        yield
        for task in tasks:
            task.cancel()

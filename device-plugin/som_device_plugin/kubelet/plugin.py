"""Kubelet's calls, answered by the lease core: the DevicePlugin service of v1beta1.

Source: Kubernetes, "Device Plugins". What kubelet does beyond the documents: Allocate comes once
per container, at admission; PreStartContainer before each start; an update is the full list.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc

from som_api import SomError
from som_api.run import clock
from som_device_plugin import cdi, loops, metrics, seams
from som_device_plugin.kubelet import deviceplugin_pb2, deviceplugin_pb2_grpc, turns

API_VERSION: Final = "v1beta1"
COALESCE_S: Final = 0.1
"""Changes of the list within this time go out as one: kubelet rewrites its checkpoint for each."""

RECEIVE_UNLIMITED: Final = (("grpc.max_receive_message_length", -1),)
"""gRPC's default of 4 MiB is less than what kubelet may send and list on a large node."""

OPTIONS: Final = deviceplugin_pb2.DevicePluginOptions(
    pre_start_required=True, get_preferred_allocation_available=True
)

_log = logging.getLogger(__name__)


class DevicePlugin(deviceplugin_pb2_grpc.DevicePluginServicer):
    """Serves `tickets`; `run` must run beside it: it follows the list of devices."""

    def __init__(
        self, tickets: seams.TicketService, *, taking_turns: turns.Turns, time: clock.Clock
    ) -> None:
        self._tickets = tickets
        self._turns = taking_turns
        self._time = time
        self._changed = asyncio.Condition()
        self._list: deviceplugin_pb2.ListAndWatchResponse | None = None
        self.watchers = 0

    async def run(self) -> None:
        """Follows the list of devices for all watchers; runs until cancelled."""
        await loops.repeat("devices", self._follow, time=self._time)

    async def _follow(self) -> None:
        devices = _to_message(self._tickets.devices())
        if devices != self._list:
            async with self._changed:
                self._list = devices
                self._changed.notify_all()
        loops.rest()
        await self._tickets.changed()
        await self._time.sleep(COALESCE_S)

    async def GetDevicePluginOptions(
        self, request: deviceplugin_pb2.Empty, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.DevicePluginOptions:
        """What kubelet asks when it dials back."""
        return OPTIONS

    async def ListAndWatch(
        self, request: deviceplugin_pb2.Empty, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[deviceplugin_pb2.ListAndWatchResponse]:
        """The full list now and after each change; never ends by itself."""
        sent: deviceplugin_pb2.ListAndWatchResponse | None = None
        self.watchers += 1
        try:
            while True:
                async with self._changed:
                    while self._list is None or self._list is sent:
                        await self._changed.wait()
                    sent = self._list
                yield sent
        finally:
            self.watchers -= 1

    async def GetPreferredAllocation(
        self,
        request: deviceplugin_pb2.PreferredAllocationRequest,
        context: grpc.aio.ServicerContext,
    ) -> deviceplugin_pb2.PreferredAllocationResponse:
        """The lease core's choice of tickets; to kubelet it is a hint."""
        async with _answering("GetPreferredAllocation", context), self._turns.allocating():
            return deviceplugin_pb2.PreferredAllocationResponse(
                container_responses=[
                    deviceplugin_pb2.ContainerPreferredAllocationResponse(
                        deviceIDs=self._tickets.preferred(
                            available=_tickets(container.available_deviceIDs),
                            must_include=_tickets(container.must_include_deviceIDs),
                            size=container.allocation_size,
                        )
                    )
                    for container in request.container_requests
                ]
            )

    async def Allocate(
        self, request: deviceplugin_pb2.AllocateRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.AllocateResponse:
        """The CDI device of each container, whose spec PreStartContainer will have written.

        FAILED_PRECONDITION with what is wrong.
        """
        answer = deviceplugin_pb2.AllocateResponse()
        wanted = [_tickets(container.devices_ids) for container in request.container_requests]
        everyone = [ticket for tickets in wanted for ticket in tickets]
        async with _answering("Allocate", context), self._turns.allocating(everyone):
            for tickets in wanted:
                try:
                    lease_id = await self._tickets.allocate(tickets)
                except SomError as error:
                    _count_refusal(error)
                    _log.error("Allocate of %s refused: %s", tickets, error)
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
                answer.container_responses.add().cdi_devices.add(name=cdi.device_name(lease_id))
        return answer

    async def PreStartContainer(
        self, request: deviceplugin_pb2.PreStartContainerRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.PreStartContainerResponse:
        """Makes the lease real. UNAVAILABLE while it is not; kubelet tries again in 10 seconds."""
        tickets = _tickets(request.devices_ids)
        self._turns.starting(tickets)
        async with _answering("PreStartContainer", context):
            try:
                await self._tickets.pre_start(tickets)
            except seams.StartRefused as refusal:
                _count_refusal(refusal)
                _log.info("start with %s refused: %s", tickets, refusal)
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(refusal))
            except SomError as error:
                _count_refusal(error)
                _log.error("start with %s failed: %s", tickets, error)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return deviceplugin_pb2.PreStartContainerResponse()


@contextlib.asynccontextmanager
async def _answering(call: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Kubelet hears of an error that nobody foresaw; it is logged with its place, and counted."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        loops.failed(call, error)
        await context.abort(
            grpc.StatusCode.INTERNAL,
            f"som: unexpected: {error!r}; the log of this node's agent has the place",
        )


def _count_refusal(error: SomError) -> None:
    metrics.REFUSALS.labels(reason=error.reason or type(error).__name__).inc()


def _tickets(ids: Sequence[str]) -> list[seams.Ticket]:
    return [seams.Ticket(device_id) for device_id in ids]


def _to_message(
    devices: Sequence[seams.TicketDevice],
) -> deviceplugin_pb2.ListAndWatchResponse:
    return deviceplugin_pb2.ListAndWatchResponse(
        devices=[
            deviceplugin_pb2.Device(
                ID=device.ticket,
                health="Healthy" if device.healthy else "Unhealthy",
                topology=deviceplugin_pb2.TopologyInfo(
                    nodes=[deviceplugin_pb2.NUMANode(ID=device.numa_node)]
                ),
            )
            for device in devices
        ]
    )

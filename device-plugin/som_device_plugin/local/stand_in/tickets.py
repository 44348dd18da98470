"""The agent's device plugin, as kubelet speaks with it."""

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

import grpc

from som_device_plugin.kubelet import deviceplugin_pb2, deviceplugin_pb2_grpc
from som_device_plugin.local import programs

DIAL_TIMEOUT_S: Final = 10.0
PRE_START_TIMEOUT_S: Final = 30.0
AWAY: Final = "the agent has gone; waiting for it to register again"

_log = logging.getLogger(__name__)


class Away(Exception):
    """The agent has ended, and one that comes after it registers again."""


class Plugin:
    """One that has registered. `healthy` are the tickets that it lists as such."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix://{socket}")
        self._calls = deviceplugin_pb2_grpc.DevicePluginStub(self._channel)
        self.healthy: frozenset[str] = frozenset()

    async def has_options(self) -> bool:
        """Whether it wants the calls that som's does."""
        empty = deviceplugin_pb2.Empty()
        options = await self._calls.GetDevicePluginOptions(empty, timeout=DIAL_TIMEOUT_S)
        return bool(options.pre_start_required and options.get_preferred_allocation_available)

    async def follow(self) -> None:
        """Keeps `healthy` as ListAndWatch says; the end of the stream makes nothing healthy."""
        try:
            async for answer in self._calls.ListAndWatch(deviceplugin_pb2.Empty()):
                self.healthy = frozenset(d.ID for d in answer.devices if d.health == "Healthy")
        except grpc.aio.AioRpcError as error:
            _log.warning("the agent's list of tickets ended: %s", error.details())
        finally:
            self.healthy = frozenset()
            await self._channel.close()

    async def allocate(self, free: list[str]) -> tuple[str, str]:
        """The ticket of `free` that it prefers, allocated, and the CDI device of its container.

        Raises:
            Away: try the next agent.
            programs.Refused: in the agent's words.
        """
        wanted = deviceplugin_pb2.ContainerPreferredAllocationRequest(
            available_deviceIDs=free, allocation_size=1
        )
        try:
            preferred = await self._call(
                "GetPreferredAllocation",
                deviceplugin_pb2.PreferredAllocationRequest(container_requests=[wanted]),
            )
            [choice] = preferred.container_responses
            ticket = (*(each for each in choice.deviceIDs if each in free), *free)[0]
            chosen = deviceplugin_pb2.ContainerAllocateRequest(devices_ids=[ticket])
            allocated = await self._call(
                "Allocate", deviceplugin_pb2.AllocateRequest(container_requests=[chosen])
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise Away from error
            raise programs.Refused(f"the agent refused the program: {error.details()}") from error
        [answer] = allocated.container_responses
        [device] = answer.cdi_devices
        return ticket, device.name

    async def pre_start(self, ticket: str) -> str:
        """One try of PreStartContainer: "" when the container may start, else why not yet."""
        request = deviceplugin_pb2.PreStartContainerRequest(devices_ids=[ticket])
        try:
            await self._call("PreStartContainer", request, timeout_s=PRE_START_TIMEOUT_S)
        except Away:
            return AWAY
        except grpc.aio.AioRpcError as error:
            return error.details() or str(error.code())
        return ""

    async def _call(self, method: str, request: Any, *, timeout_s: float | None = None) -> Any:
        try:
            return await getattr(self._calls, method)(request, timeout=timeout_s)
        except asyncio.CancelledError:
            # A call whose channel is closed ends like this, though nobody cancelled this task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        except grpc.aio.UsageError:
            pass
        raise Away

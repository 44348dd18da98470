"""A device plugin between kubelet and the agent, which passes everything on.

Scenes override what they want to be otherwise. It serves until its standard input ends; then the
agent, whose stream kubelet had ended, registers again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from som_device_plugin.kubelet import deviceplugin_pb2, deviceplugin_pb2_grpc, plugin

Context: TypeAlias = grpc.aio.ServicerContext
PLUGINS = Path("/var/lib/kubelet/device-plugins")
NAME = "between.sock"


class Between(deviceplugin_pb2_grpc.DevicePluginServicer):
    """Passes on to `agent`."""

    def __init__(self, agent: deviceplugin_pb2_grpc.DevicePluginStub) -> None:
        self.agent = agent

    async def GetDevicePluginOptions(
        self, request: deviceplugin_pb2.Empty, context: Context
    ) -> deviceplugin_pb2.DevicePluginOptions:
        return plugin.OPTIONS

    async def ListAndWatch(
        self, request: deviceplugin_pb2.Empty, context: Context
    ) -> AsyncIterator[deviceplugin_pb2.ListAndWatchResponse]:
        async for devices in self.agent.ListAndWatch(request):
            yield devices

    async def GetPreferredAllocation(
        self, request: deviceplugin_pb2.PreferredAllocationRequest, context: Context
    ) -> Any:
        return await self.agent.GetPreferredAllocation(request)

    async def Allocate(self, request: deviceplugin_pb2.AllocateRequest, context: Context) -> Any:
        return await self.agent.Allocate(request)

    async def PreStartContainer(
        self, request: deviceplugin_pb2.PreStartContainerRequest, context: Context
    ) -> Any:
        try:
            return await self.agent.PreStartContainer(request)
        except grpc.aio.AioRpcError as refusal:
            await context.abort(refusal.code(), refusal.details() or "")
            raise AssertionError("abort raises") from refusal


async def serve(make: Callable[[deviceplugin_pb2_grpc.DevicePluginStub], Between]) -> None:
    """Register what `make` makes in place of the agent; prints a line when that is done."""
    (socket,) = PLUGINS.glob("som-*.sock")
    async with (
        grpc.aio.insecure_channel(f"unix://{socket}") as agent,
        grpc.aio.insecure_channel(f"unix://{PLUGINS}/kubelet.sock") as kubelet,
    ):
        server = grpc.aio.server()
        between = make(deviceplugin_pb2_grpc.DevicePluginStub(agent))
        deviceplugin_pb2_grpc.add_DevicePluginServicer_to_server(between, server)
        server.add_insecure_port(f"unix://{PLUGINS}/{NAME}")
        await server.start()
        await deviceplugin_pb2_grpc.RegistrationStub(kubelet).Register(
            deviceplugin_pb2.RegisterRequest(
                version=plugin.API_VERSION,
                endpoint=NAME,
                resource_name="som.io/ticket",
                options=plugin.OPTIONS,
            )
        )
        print("registered", flush=True)
        await asyncio.to_thread(sys.stdin.read)

"""A device plugin between kubelet and the agent, which passes everything on.

Scenes override what they want to be otherwise. It serves until its standard input ends; then the
agent, whose stream kubelet had ended, registers again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc

from som_device_plugin.kubelet import deviceplugin_pb2, deviceplugin_pb2_grpc, plugin

PLUGINS = Path("/var/lib/kubelet/device-plugins")
NAME = "between.sock"


class Between(deviceplugin_pb2_grpc.DevicePluginServicer):
    """Passes on to `agent`."""

    def __init__(self, agent: deviceplugin_pb2_grpc.DevicePluginStub) -> None:
        self.agent = agent

    async def GetDevicePluginOptions(
        self, request: deviceplugin_pb2.Empty, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.DevicePluginOptions:
        return plugin.OPTIONS

    async def ListAndWatch(
        self, request: deviceplugin_pb2.Empty, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[deviceplugin_pb2.ListAndWatchResponse]:
        async for devices in self.agent.ListAndWatch(request):
            yield devices

    async def GetPreferredAllocation(
        self,
        request: deviceplugin_pb2.PreferredAllocationRequest,
        context: grpc.aio.ServicerContext,
    ) -> deviceplugin_pb2.PreferredAllocationResponse:
        answer: deviceplugin_pb2.PreferredAllocationResponse
        answer = await self.agent.GetPreferredAllocation(request)
        return answer

    async def Allocate(
        self, request: deviceplugin_pb2.AllocateRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.AllocateResponse:
        answer: deviceplugin_pb2.AllocateResponse = await self.agent.Allocate(request)
        return answer

    async def PreStartContainer(
        self, request: deviceplugin_pb2.PreStartContainerRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.PreStartContainerResponse:
        try:
            answer: deviceplugin_pb2.PreStartContainerResponse
            answer = await self.agent.PreStartContainer(request)
            return answer
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

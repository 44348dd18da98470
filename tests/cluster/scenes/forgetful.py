"""A device plugin between kubelet and the agent that brings out a fault of kubelet.

kubelet (seen in 1.34 to 1.37) forgets a ticket that it is just allocating when PodResources is
listed and an old pod has ended meanwhile; it can then give it to another pod, too. The agent
allocates in milliseconds and prefers tickets that were unused longest, so that it does not
happen. Here Allocate waits until the listing has made kubelet forget, and one ticket is always
preferred. Everything else is passed on. It ends when its standard input does.

    python -m cluster.scenes.forgetful TICKET NAMESPACE/NAME-OF-THE-ENDING-POD
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from som_device_plugin.kubelet import (
    deviceplugin_pb2,
    deviceplugin_pb2_grpc,
    plugin,
    podresources_pb2,
    podresources_pb2_grpc,
)

PLUGINS = Path("/var/lib/kubelet/device-plugins")
POD_RESOURCES = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
NAME = "forgetful.sock"


class Forgetful(deviceplugin_pb2_grpc.DevicePluginServicer):
    """Passes on to `agent`, but for preference and a slow Allocate."""

    def __init__(
        self,
        agent: deviceplugin_pb2_grpc.DevicePluginStub,
        lister: podresources_pb2_grpc.PodResourcesListerStub,
        *,
        ticket: str,
        ending: str,
    ) -> None:
        self._agent = agent
        self._lister = lister
        self._ticket = ticket
        self._ending = ending

    async def GetDevicePluginOptions(
        self, request: deviceplugin_pb2.Empty, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.DevicePluginOptions:
        return plugin.OPTIONS

    async def ListAndWatch(
        self, request: deviceplugin_pb2.Empty, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[deviceplugin_pb2.ListAndWatchResponse]:
        async for devices in self._agent.ListAndWatch(request):
            yield devices

    async def GetPreferredAllocation(
        self,
        request: deviceplugin_pb2.PreferredAllocationRequest,
        context: grpc.aio.ServicerContext,
    ) -> deviceplugin_pb2.PreferredAllocationResponse:
        (container,) = request.container_requests
        if self._ticket not in container.available_deviceIDs:
            return await self._agent.GetPreferredAllocation(request)
        chosen = deviceplugin_pb2.ContainerPreferredAllocationResponse(deviceIDs=[self._ticket])
        return deviceplugin_pb2.PreferredAllocationResponse(container_responses=[chosen])

    async def Allocate(
        self, request: deviceplugin_pb2.AllocateRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.AllocateResponse:
        while self._ending in await self._listed():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return await self._agent.Allocate(request)

    async def PreStartContainer(
        self, request: deviceplugin_pb2.PreStartContainerRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.PreStartContainerResponse:
        try:
            return await self._agent.PreStartContainer(request)
        except grpc.aio.AioRpcError as refusal:
            await context.abort(refusal.code(), refusal.details() or "")

    async def _listed(self) -> set[str]:
        answer = await self._lister.List(podresources_pb2.ListPodResourcesRequest())
        return {f"{pod.namespace}/{pod.name}" for pod in answer.pod_resources}


async def main(ticket: str, ending: str) -> None:
    (socket,) = PLUGINS.glob("som-*.sock")
    async with (
        grpc.aio.insecure_channel(f"unix://{socket}") as agent,
        grpc.aio.insecure_channel(f"unix://{POD_RESOURCES}") as resources,
        grpc.aio.insecure_channel(f"unix://{PLUGINS}/kubelet.sock") as kubelet,
    ):
        server = grpc.aio.server()
        servicer = Forgetful(
            deviceplugin_pb2_grpc.DevicePluginStub(agent),
            podresources_pb2_grpc.PodResourcesListerStub(resources),
            ticket=ticket,
            ending=ending,
        )
        deviceplugin_pb2_grpc.add_DevicePluginServicer_to_server(servicer, server)
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


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

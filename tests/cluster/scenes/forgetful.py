"""A device plugin between kubelet and the agent that brings out a fault of kubelet.

kubelet (seen in 1.34 to 1.37) forgets a ticket that it is just allocating when PodResources is
listed and an old pod has ended meanwhile; it can then give it to another pod, too. The agent
allocates in milliseconds and prefers tickets that were unused longest, so that it does not
happen. Here Allocate waits until the listing has made kubelet forget, and one ticket is always
preferred.

    python -m cluster.scenes.forgetful TICKET NAMESPACE/NAME-OF-THE-ENDING-POD
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc

from cluster.scenes import between
from som_device_plugin.kubelet import deviceplugin_pb2, podresources_pb2, podresources_pb2_grpc

POD_RESOURCES = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
TICKET, ENDING = sys.argv[1:]


class Forgetful(between.Between):
    """Prefers one ticket, and is slow to allocate."""

    async def GetPreferredAllocation(
        self, request: deviceplugin_pb2.PreferredAllocationRequest, context: between.Context
    ) -> Any:
        (container,) = request.container_requests
        if TICKET not in container.available_deviceIDs:
            return await super().GetPreferredAllocation(request, context)
        chosen = deviceplugin_pb2.ContainerPreferredAllocationResponse(deviceIDs=[TICKET])
        return deviceplugin_pb2.PreferredAllocationResponse(container_responses=[chosen])

    async def Allocate(
        self, request: deviceplugin_pb2.AllocateRequest, context: between.Context
    ) -> Any:
        async with grpc.aio.insecure_channel(f"unix://{POD_RESOURCES}") as resources:
            lister = podresources_pb2_grpc.PodResourcesListerStub(resources)
            while True:
                answer = await lister.List(podresources_pb2.ListPodResourcesRequest())
                if ENDING not in {f"{pod.namespace}/{pod.name}" for pod in answer.pod_resources}:
                    return await super().Allocate(request, context)
                await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(between.serve(Forgetful))

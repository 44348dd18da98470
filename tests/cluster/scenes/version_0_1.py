"""Admits pods as som 0.1 did: kubelet keeps its answer to Allocate for as long as the pod lives.

That answer was a mount of the lease's path and a part of the environment; a link to nowhere was at
the path until the memory was there. One pod is started; those after it have to wait, so that they
start when the agent is back.

    python -m cluster.scenes.version_0_1
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc

from cluster.scenes import between
from som_device_plugin.kubelet import deviceplugin_pb2

LEASES = Path("/var/lib/som/leases")


class Version01(between.Between):
    """Answers Allocate as 0.1 did, and lets one ticket start."""

    _first: list[str] | None = None

    async def Allocate(
        self, request: deviceplugin_pb2.AllocateRequest, context: between.Context
    ) -> deviceplugin_pb2.AllocateResponse:
        answer: deviceplugin_pb2.AllocateResponse = await self.agent.Allocate(request)
        for container in answer.container_responses:
            (device,) = container.cdi_devices
            path = LEASES / device.name.removeprefix("som.io/lease=") / "som"
            path.parent.mkdir(parents=True)
            path.symlink_to("/proc/som/the-lease-is-not-ready")
            del container.cdi_devices[:]
            container.envs.update({"SOM_DEVICE": "/dev/som", "SOM_DRIVER": "HugeTLBFS"})
            container.mounts.add(container_path="/dev/som", host_path=str(path))
        return answer

    async def PreStartContainer(
        self, request: deviceplugin_pb2.PreStartContainerRequest, context: between.Context
    ) -> Any:
        tickets = list(request.devices_ids)
        self._first = self._first or tickets
        if tickets != self._first:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "som: not before the upgrade")
        return await super().PreStartContainer(request, context)


if __name__ == "__main__":
    asyncio.run(between.serve(Version01))

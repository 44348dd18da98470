"""A kubelet of a few lines: Registration and PodResources on real unix sockets.

It dials the plugin back as the real one does, and follows ListAndWatch until the stream ends.
"""

import asyncio
from pathlib import Path
from typing import Self

import grpc

from som_device_plugin.kubelet import (
    deviceplugin_pb2,
    deviceplugin_pb2_grpc,
    podresources_pb2,
    podresources_pb2_grpc,
)


class FakeKubelet(
    deviceplugin_pb2_grpc.RegistrationServicer, podresources_pb2_grpc.PodResourcesListerServicer
):
    """Serves `directory`/kubelet.sock and `directory`/podresources.sock inside the block."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registrations: list[deviceplugin_pb2.RegisterRequest] = []
        self.devices: dict[str, str] = {}
        self.updates = 0
        self.refuse_registration = ""
        self.refusals = 0
        self.pods = podresources_pb2.ListPodResourcesResponse()
        self.lists = 0
        self.lists_now = 0
        self.list_waits_for = asyncio.Event()
        self.list_waits_for.set()
        self.list_fails: list[grpc.StatusCode] = []
        self.plugin: deviceplugin_pb2_grpc.DevicePluginStub
        self._watches: list[asyncio.Task[None]] = []
        self._channels: list[grpc.aio.Channel] = []

    @property
    def podresources_socket(self) -> Path:
        return self.directory / "podresources.sock"

    async def __aenter__(self) -> Self:
        for socket in self.directory.glob("*.sock"):
            socket.unlink()
        self._server = grpc.aio.server()
        deviceplugin_pb2_grpc.add_RegistrationServicer_to_server(self, self._server)
        podresources_pb2_grpc.add_PodResourcesListerServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix://{self.directory / 'kubelet.sock'}")
        self._server.add_insecure_port(f"unix://{self.podresources_socket}")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_watching()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        await self._server.stop(None)

    def stop_watching(self) -> None:
        """Ends every ListAndWatch, as a kubelet that drops the plugin does."""
        for watch in self._watches:
            watch.cancel()

    async def Register(
        self, request: deviceplugin_pb2.RegisterRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.Empty:
        if self.refuse_registration:
            self.refusals += 1
            await context.abort(grpc.StatusCode.INTERNAL, self.refuse_registration)
        channel = grpc.aio.insecure_channel(f"unix://{self.directory / request.endpoint}")
        self._channels.append(channel)
        self.plugin = deviceplugin_pb2_grpc.DevicePluginStub(channel)
        await self.plugin.GetDevicePluginOptions(deviceplugin_pb2.Empty())
        self.registrations.append(request)
        self._watches.append(asyncio.create_task(self._watch(self.plugin)))
        return deviceplugin_pb2.Empty()

    async def _watch(self, plugin: deviceplugin_pb2_grpc.DevicePluginStub) -> None:
        try:
            async for answer in plugin.ListAndWatch(deviceplugin_pb2.Empty()):
                self.devices = {device.ID: device.health for device in answer.devices}
                self.updates += 1
        except grpc.aio.AioRpcError:
            pass
        self.devices = dict.fromkeys(self.devices, "Unhealthy")

    async def List(
        self, request: podresources_pb2.ListPodResourcesRequest, context: grpc.aio.ServicerContext
    ) -> podresources_pb2.ListPodResourcesResponse:
        self.lists += 1
        if self.list_fails:
            await context.abort(self.list_fails.pop(0), "as the test wants it")
        self.lists_now += 1
        answer = self.pods
        await self.list_waits_for.wait()
        self.lists_now -= 1
        return answer

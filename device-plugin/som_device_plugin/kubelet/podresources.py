"""Kubelet's PodResources List: which container holds which ticket.

Kubelet answers 100 requests a second, with a burst of 10, for all clients of its socket together
(pkg/kubelet/apis/podresources). So callers that arrive while a List is in flight share the next
one, Lists keep a distance, and one that kubelet turns away for its rate is tried again.
"""

import asyncio
from pathlib import Path
from typing import Final

import grpc

from som_api import SomError, v1alpha1
from som_api.run import clock
from som_device_plugin import seams
from som_device_plugin.kubelet import plugin, podresources_pb2, podresources_pb2_grpc, turns

DISTANCE_S: Final = 0.02
"""Between two Lists: half of kubelet's rate, so that other clients get theirs."""

LIST_TIMEOUT_S: Final = 5.0
RATE_LIMIT_TRIES: Final = 5


class PodResourcesUnavailable(SomError):
    """Kubelet did not answer; nothing is known about who holds which ticket."""


class Client:
    """Implements `seams.PodResourcesClient` over kubelet's socket."""

    def __init__(self, socket: Path, *, taking_turns: turns.Turns, time: clock.Clock) -> None:
        self._socket = socket
        self._turns = taking_turns
        self._time = time
        self._one_at_a_time = asyncio.Lock()
        self._begun = self._answered = 0
        self._earliest_next = 0.0
        self._answer: seams.PodResources | PodResourcesUnavailable
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket}",
            options=[*plugin.RECEIVE_UNLIMITED, ("grpc.max_reconnect_backoff_ms", 1000)],
        )
        self._lister = podresources_pb2_grpc.PodResourcesListerStub(self._channel)

    async def close(self) -> None:
        """Ends the connection; Lists in flight fail."""
        await self._channel.close()

    async def list(self) -> seams.PodResources:
        """What a List says that began after this call.

        Raises:
            PodResourcesUnavailable: kubelet does not answer, or not in time.
        """
        begun_before = self._begun
        async with self._one_at_a_time:
            if self._answered <= begun_before:
                self._answer = await self._list_once()
                self._answered = self._begun
            answer = self._answer
        if isinstance(answer, PodResourcesUnavailable):
            raise answer
        return answer

    async def _list_once(self) -> seams.PodResources | PodResourcesUnavailable:
        error: grpc.aio.AioRpcError | None = None
        for _ in range(RATE_LIMIT_TRIES):
            await self._time.sleep(max(0.0, self._earliest_next - self._time.monotonic()))
            async with self._turns.listing():
                self._earliest_next = self._time.monotonic() + DISTANCE_S
                self._begun += 1
                try:
                    answer = await self._lister.List(
                        podresources_pb2.ListPodResourcesRequest(), timeout=LIST_TIMEOUT_S
                    )
                    return _from_message(answer)
                except grpc.aio.AioRpcError as failure:
                    error = failure
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                break
            self._earliest_next = self._time.monotonic() + 10 * DISTANCE_S
        assert error is not None
        return PodResourcesUnavailable(
            f"could not ask kubelet at {self._socket} which container holds which ticket: "
            f"{error.details()} ({error.code().name}); check that kubelet runs and that the "
            "directory of this socket is mounted"
        )


def _from_message(answer: podresources_pb2.ListPodResourcesResponse) -> seams.PodResources:
    return seams.PodResources(
        pods=frozenset(f"{pod.namespace}/{pod.name}" for pod in answer.pod_resources),
        holders=tuple(
            seams.TicketHolder(
                namespace=pod.namespace,
                pod=pod.name,
                container=container.name,
                ticket=seams.Ticket(device_id),
            )
            for pod in answer.pod_resources
            for container in pod.containers
            for devices in container.devices
            if devices.resource_name == v1alpha1.TICKET_RESOURCE
            for device_id in devices.device_ids
        ),
    )

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from fakes.clock import FakeClock
from som_device_plugin import seams
from som_device_plugin.kubelet import podresources, podresources_pb2, turns
from waiting import until

from .conftest import Served
from .test_plugin import allocate_request


def listed(**pods: str) -> podresources_pb2.ListPodResourcesResponse:
    """Pods of the namespace shop, each with a container `main` and this ticket."""
    return podresources_pb2.ListPodResourcesResponse(
        pod_resources=[
            podresources_pb2.PodResources(
                name=pod,
                namespace="shop",
                containers=[
                    podresources_pb2.ContainerResources(
                        name="main",
                        devices=[
                            podresources_pb2.ContainerDevices(
                                resource_name="som.io/ticket", device_ids=[ticket]
                            ),
                            podresources_pb2.ContainerDevices(
                                resource_name="gpu.example/gpu", device_ids=["gpu-7"]
                            ),
                        ],
                    )
                ],
            )
            for pod, ticket in pods.items()
        ]
    )


@contextlib.asynccontextmanager
async def client_of(
    served: Served, *, clock: FakeClock | None = None
) -> AsyncIterator[podresources.Client]:
    """A client that keeps no distance between Lists; with `clock`, so much of it as this says."""
    client = podresources.Client(
        served.kubelet.podresources_socket,
        taking_turns=served.turns,
        time=clock or FakeClock(runs_ahead=True),
    )
    try:
        yield client
    finally:
        await client.close()


async def test_names_all_pods_and_the_holders_of_tickets_only(served: Served) -> None:
    served.kubelet.pods = listed(db="n0-0")
    served.kubelet.pods.pod_resources.add(name="web", namespace="shop")
    async with client_of(served) as client:
        answer = await client.list()
    assert answer.pods == {"shop/db", "shop/web"}
    assert answer.holders == (
        seams.TicketHolder(
            namespace="shop", pod="db", container="main", ticket=seams.Ticket("n0-0")
        ),
    )


async def test_callers_during_a_list_share_the_next_one(served: Served) -> None:
    served.kubelet.list_waits_for.clear()
    async with client_of(served) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.list())
        await until(lambda: served.kubelet.lists_now == 1)
        served.kubelet.pods = listed(db="n0-0")
        later = [group.create_task(client.list()) for _ in range(50)]
        await asyncio.sleep(0)
        served.kubelet.list_waits_for.set()
    assert served.kubelet.lists == 2
    assert first.result().pods == frozenset()
    assert all(task.result().pods == {"shop/db"} for task in later)


async def test_a_caller_that_gives_up_takes_nobody_with_it(served: Served) -> None:
    served.kubelet.list_waits_for.clear()
    async with client_of(served) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.list())
        await until(lambda: served.kubelet.lists_now == 1)
        second = group.create_task(client.list())
        await asyncio.sleep(0)
        first.cancel()
        served.kubelet.list_waits_for.set()
        assert (await second).pods == frozenset()


async def test_lists_keep_to_half_of_kubelets_rate(served: Served) -> None:
    clock = FakeClock(runs_ahead=True)
    async with client_of(served, clock=clock) as client:
        for _ in range(20):
            await client.list()
    assert clock.monotonic() == pytest.approx(19 * podresources.DISTANCE_S)


async def test_no_list_while_an_allocate_is_in_flight(served: Served) -> None:
    served.tickets.allocate_waits_for.clear()
    async with client_of(served) as client, asyncio.TaskGroup() as group:
        allocate = asyncio.ensure_future(served.kubelet.plugin.Allocate(allocate_request("n0-0")))
        await until(lambda: served.tickets.waiting == 1)
        listing = group.create_task(client.list())
        await served.clock.advance(10)
        await asyncio.sleep(0.05)
        assert served.kubelet.lists == 0
        served.tickets.allocate_waits_for.set()
        await allocate
        await served.clock.until(listing.done)
    assert served.kubelet.lists == 1


async def test_an_allocate_waits_for_the_list_in_flight(served: Served) -> None:
    served.kubelet.list_waits_for.clear()
    async with client_of(served) as client, asyncio.TaskGroup() as group:
        group.create_task(client.list())
        await until(lambda: served.kubelet.lists_now == 1)
        allocate = asyncio.ensure_future(served.kubelet.plugin.Allocate(allocate_request("n0-0")))
        await asyncio.sleep(0.05)
        assert served.tickets.allocated == []
        served.kubelet.list_waits_for.set()
        await allocate


async def test_an_allocate_does_not_wait_forever_for_a_list(served: Served) -> None:
    served.kubelet.list_waits_for.clear()
    async with client_of(served) as client, asyncio.TaskGroup() as group:
        listing = group.create_task(client.list())
        await until(lambda: served.kubelet.lists_now == 1)
        allocate = asyncio.ensure_future(served.kubelet.plugin.Allocate(allocate_request("n0-0")))
        # Time stands still while the call is on its way to the plugin, and its answer back.
        await until(lambda: served.turns._allocates == 1)
        await served.clock.until(lambda: served.tickets.allocated != [])
        assert served.clock.monotonic() == pytest.approx(turns.ALLOCATE_PATIENCE_S, abs=0.5)
        await allocate
        listing.cancel()
        served.kubelet.list_waits_for.set()


async def test_a_list_turned_away_for_its_rate_is_tried_again(served: Served) -> None:
    served.kubelet.list_fails = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    async with client_of(served) as client:
        await client.list()
    assert served.kubelet.lists == 3


async def test_silence_is_an_error_and_not_an_empty_list(served: Served) -> None:
    served.kubelet.list_fails = [grpc.StatusCode.UNAVAILABLE]
    async with client_of(served) as client:
        with pytest.raises(podresources.PodResourcesUnavailable, match=r"podresources\.sock"):
            await client.list()
        await client.list()


async def test_an_answer_beyond_4_mib_is_read(served: Served) -> None:
    served.kubelet.pods = listed(**{f"pod-{n:09999}": "n0-0" for n in range(500)})
    assert served.kubelet.pods.ByteSize() > 4 * 2**20
    async with client_of(served) as client:
        assert len((await client.list()).pods) == 500

import asyncio

import grpc
import pytest
from prometheus_client import registry

from fakes import tickets
from som_api import SomError
from som_device_plugin import seams
from som_device_plugin.kubelet import deviceplugin_pb2

from .conftest import Served


def allocate_request(*ids: str) -> deviceplugin_pb2.AllocateRequest:
    return deviceplugin_pb2.AllocateRequest(
        container_requests=[deviceplugin_pb2.ContainerAllocateRequest(devices_ids=ids)]
    )


async def test_kubelet_learns_that_starts_and_choices_are_the_plugins(served: Served) -> None:
    options = await served.kubelet.plugin.GetDevicePluginOptions(deviceplugin_pb2.Empty())
    assert options.pre_start_required
    assert options.get_preferred_allocation_available


async def test_kubelet_sees_every_ticket_with_its_health_and_numa_node(served: Served) -> None:
    assert served.kubelet.devices == {"n0-0": "Healthy", "n0-1": "Unhealthy", "n1-0": "Healthy"}
    stream = served.kubelet.plugin.ListAndWatch(deviceplugin_pb2.Empty())
    first = await stream.read()
    stream.cancel()
    assert [device.topology.nodes[0].ID for device in first.devices] == [0, 0, 1]


async def test_a_burst_of_changes_reaches_kubelet_as_few_full_lists(served: Served) -> None:
    before = served.kubelet.updates
    for count in range(1, 101):
        served.tickets.set_devices([tickets.device(f"n0-{n}") for n in range(count)])
        await asyncio.sleep(0)
    await served.clock.until(lambda: len(served.kubelet.devices) == 100)
    assert served.kubelet.updates - before <= 2


async def test_an_announcement_without_a_change_sends_nothing(served: Served) -> None:
    before = served.kubelet.updates
    served.tickets.set_devices(served.tickets.devices())
    await served.clock.advance(10)
    await asyncio.sleep(0.05)
    assert served.kubelet.updates == before


async def test_150_000_tickets_fit_into_a_request_for_a_preference(served: Served) -> None:
    answer = await served.kubelet.plugin.GetPreferredAllocation(
        deviceplugin_pb2.PreferredAllocationRequest(
            container_requests=[
                deviceplugin_pb2.ContainerPreferredAllocationRequest(
                    available_deviceIDs=[f"n0-{n:06}-with-a-long-name" for n in range(150_000)],
                    must_include_deviceIDs=["n0-000007-with-a-long-name"],
                    allocation_size=2,
                )
            ]
        )
    )
    assert list(answer.container_responses[0].deviceIDs) == [
        "n0-000007-with-a-long-name",
        "n0-149999-with-a-long-name",
    ]


async def test_allocate_answers_with_a_cdi_device_and_nothing_else(served: Served) -> None:
    answer = await served.kubelet.plugin.Allocate(allocate_request("n0-0"))
    device = deviceplugin_pb2.CDIDevice(name="som.io/lease=lease-of-n0-0")
    assert list(answer.container_responses) == [
        deviceplugin_pb2.ContainerAllocateResponse(cdi_devices=[device])
    ]


async def test_an_allocate_that_cannot_be_says_why(served: Served) -> None:
    served.tickets.allocate_error = SomError("som: two tickets in one container")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.kubelet.plugin.Allocate(allocate_request("n0-0", "n0-1"))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == "som: two tickets in one container"


def _refusals(reason: str) -> float:
    labels = {"reason": reason}
    return registry.REGISTRY.get_sample_value("som_agent_refusals_total", labels) or 0.0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            seams.StartRefused(
                "som: warming 61 of 128Gi, retrying, no action needed", reason="Warming"
            ),
            grpc.StatusCode.UNAVAILABLE,
        ),
        (SomError("som: the store is read-only"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_a_refused_start_shows_its_text_and_can_be_tried_again(
    served: Served, error: SomError, code: grpc.StatusCode
) -> None:
    served.tickets.refusals = [error]
    before = _refusals(error.reason or "SomError")
    request = deviceplugin_pb2.PreStartContainerRequest(devices_ids=["n1-0"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.kubelet.plugin.PreStartContainer(request)
    assert (refused.value.code(), refused.value.details()) == (code, str(error))
    assert _refusals(error.reason or "SomError") == before + 1
    await served.kubelet.plugin.PreStartContainer(request)
    assert served.tickets.started == ["n1-0"]


async def test_an_error_that_nobody_foresaw_is_told_and_counted_and_the_next_call_served(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.tickets.refusals = [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "poison")]  # type: ignore[list-item]
    request = deviceplugin_pb2.PreStartContainerRequest(devices_ids=["n0-0"])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await served.kubelet.plugin.PreStartContainer(request)
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert "unexpected: UnicodeDecodeError" in (failure.value.details() or "")
    assert "PreStartContainer failed" in caplog.text
    await served.kubelet.plugin.PreStartContainer(request)
    assert served.tickets.started == ["n0-0"]

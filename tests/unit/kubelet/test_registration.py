import socket as sockets
from pathlib import Path

import prometheus_client

from fakes import kubelet, tickets
from fakes.clock import FakeClock
from fakes.tickets import running
from som_device_plugin.kubelet import plugin, registration, turns
from waiting import until

from .conftest import Served


def own_sockets(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("som-*.sock")]


def make_plugin(clock: FakeClock) -> plugin.DevicePlugin:
    fake = tickets.FakeTickets([tickets.device("n0-0")])
    return plugin.DevicePlugin(fake, taking_turns=turns.Turns(time=clock), time=clock)


def stale_sockets_removed() -> float:
    return (
        prometheus_client.REGISTRY.get_sample_value("som_agent_stale_sockets_removed_total") or 0.0
    )


async def test_registers_the_resource_under_a_socket_of_its_own(served: Served) -> None:
    [request] = served.kubelet.registrations
    assert (request.version, request.resource_name) == ("v1beta1", "som.io/ticket")
    assert own_sockets(served.kubelet.directory) == [request.endpoint]


async def test_waits_for_a_kubelet_that_is_not_there_yet(tmp_path: Path, clock: FakeClock) -> None:
    async with running(make_plugin(clock), tmp_path, clock):
        await clock.advance(60)
        async with kubelet.FakeKubelet(tmp_path) as late:
            await clock.until(lambda: late.devices == {"n0-0": "Healthy"})


async def test_registers_again_with_a_new_name_when_kubelet_starts_anew(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with running(make_plugin(clock), tmp_path, clock):
        async with kubelet.FakeKubelet(tmp_path) as first:
            await until(lambda: first.devices == {"n0-0": "Healthy"})
        async with kubelet.FakeKubelet(tmp_path) as second:
            await clock.until(lambda: second.devices == {"n0-0": "Healthy"})
            assert second.registrations[0].endpoint != first.registrations[0].endpoint
            assert own_sockets(tmp_path) == [second.registrations[0].endpoint]


async def test_registers_again_when_its_socket_was_removed(served: Served) -> None:
    (served.kubelet.directory / served.kubelet.registrations[0].endpoint).unlink()
    await served.clock.until(lambda: len(served.kubelet.registrations) == 2)
    await until(lambda: served.kubelet.devices["n0-0"] == "Healthy")


async def test_registers_again_when_kubelet_no_longer_watches(served: Served) -> None:
    served.kubelet.stop_watching()
    await until(lambda: served.plugin.watchers == 0)
    await served.clock.advance(registration.UNWATCHED_S)
    await served.clock.until(lambda: len(served.kubelet.registrations) == 2)
    await until(lambda: served.kubelet.devices["n0-0"] == "Healthy")


async def test_a_refused_registration_is_tried_again(tmp_path: Path, clock: FakeClock) -> None:
    async with kubelet.FakeKubelet(tmp_path) as refusing:
        refusing.refuse_registration = "not now"
        async with running(make_plugin(clock), tmp_path, clock):
            await clock.until(lambda: refusing.refusals > 2, step_s=0.1)
            assert refusing.registrations == []
            refusing.refuse_registration = ""
            await clock.until(lambda: refusing.devices == {"n0-0": "Healthy"})


async def test_sockets_of_dead_agents_are_removed_and_those_of_others_stay(
    tmp_path: Path, clock: FakeClock
) -> None:
    removed_before = stale_sockets_removed()
    async with kubelet.FakeKubelet(tmp_path) as fake_kubelet:
        with (
            sockets.socket(sockets.AF_UNIX) as living,
            sockets.socket(sockets.AF_UNIX) as dead,
            sockets.socket(sockets.AF_UNIX) as foreign,
        ):
            living.bind(str(tmp_path / "som-living.sock"))
            living.listen()
            dead.bind(str(tmp_path / "som-dead.sock"))
            foreign.bind(str(tmp_path / "gpu.sock"))
        with sockets.socket(sockets.AF_UNIX) as living:
            (tmp_path / "som-living.sock").unlink()
            living.bind(str(tmp_path / "som-living.sock"))
            living.listen()
            async with running(make_plugin(clock), tmp_path, clock):
                await until(lambda: fake_kubelet.devices == {"n0-0": "Healthy"})
                assert set(own_sockets(tmp_path)) == {
                    "som-living.sock",
                    fake_kubelet.registrations[0].endpoint,
                }
                assert (tmp_path / "gpu.sock").exists()
    assert stale_sockets_removed() - removed_before == 1


async def test_nothing_is_left_when_the_agent_ends(tmp_path: Path, clock: FakeClock) -> None:
    async with kubelet.FakeKubelet(tmp_path) as fake_kubelet:
        async with running(make_plugin(clock), tmp_path, clock):
            await until(lambda: fake_kubelet.devices == {"n0-0": "Healthy"})
        assert own_sockets(tmp_path) == []
        await until(lambda: fake_kubelet.devices == {"n0-0": "Unhealthy"})

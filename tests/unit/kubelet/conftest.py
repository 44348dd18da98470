import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes import kubelet, tickets
from fakes.clock import FakeClock
from fakes.tickets import running
from som_device_plugin.kubelet import plugin, turns
from waiting import until


@dataclasses.dataclass
class Served:
    kubelet: kubelet.FakeKubelet
    tickets: tickets.FakeTickets
    plugin: plugin.DevicePlugin
    turns: turns.Turns
    clock: FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def served(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Served]:
    """A registered plugin with the tickets n0-0, n0-1 and n1-0."""
    here = [tickets.device("n0-0"), tickets.device("n0-1", healthy=False)]
    fake = tickets.FakeTickets([*here, tickets.device("n1-0", numa_node=1)])
    taking_turns = turns.Turns(time=clock)
    device_plugin = plugin.DevicePlugin(fake, taking_turns=taking_turns, time=clock)
    async with (
        kubelet.FakeKubelet(tmp_path) as fake_kubelet,
        running(device_plugin, tmp_path, clock),
    ):
        await until(lambda: fake_kubelet.updates > 0)
        yield Served(fake_kubelet, fake, device_plugin, taking_turns, clock)
        # With nobody who watches, the plugin's server need not wait for them.
        fake_kubelet.stop_watching()

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fakes import kubelet, tickets
from som_device_plugin.kubelet import plugin, registration, turns

DEADLINE_S = 10.0


async def until(condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Returns once `condition` holds; TimeoutError after the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclasses.dataclass
class Served:
    kubelet: kubelet.FakeKubelet
    tickets: tickets.FakeTickets
    plugin: plugin.DevicePlugin
    turns: turns.Turns


@contextlib.asynccontextmanager
async def running(device_plugin: plugin.DevicePlugin, directory: Path) -> AsyncIterator[None]:
    """The plugin as the agent runs it, kept registered with the kubelet of `directory`."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(device_plugin.run()),
            group.create_task(
                registration.keep_registered(
                    device_plugin, directory=directory, resource_name="som.io/ticket"
                )
            ),
        ]
        yield
        for task in tasks:
            task.cancel()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A registered plugin with the tickets n0-0, n0-1 and n1-0."""
    fake = tickets.FakeTickets(
        [
            tickets.device("n0-0"),
            tickets.device("n0-1", healthy=False),
            tickets.device("n1-0", numa_node=1),
        ]
    )
    taking_turns = turns.Turns()
    device_plugin = plugin.DevicePlugin(fake, taking_turns=taking_turns)
    async with kubelet.FakeKubelet(tmp_path) as fake_kubelet, running(device_plugin, tmp_path):
        await until(lambda: fake_kubelet.updates > 0)
        yield Served(fake_kubelet, fake, device_plugin, taking_turns)

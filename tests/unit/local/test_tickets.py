"""The stand-in's side of the device plugin protocol, against the agent's own over a real socket."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator

import pytest

import waiting
from fakes import clock, kubelet
from fakes import tickets as fake_tickets
from som_api import SomError
from som_device_plugin import seams
from som_device_plugin.kubelet import plugin, registration, turns
from som_device_plugin.local import programs
from som_device_plugin.local.stand_in import tickets


@pytest.fixture
def core() -> fake_tickets.FakeTickets:
    names = {"n0-0": True, "n0-1": False, "n0-2": True}
    return fake_tickets.FakeTickets(
        [fake_tickets.device(name, healthy=healthy) for name, healthy in names.items()]
    )


@contextlib.asynccontextmanager
async def agent(core: fake_tickets.FakeTickets, path: pathlib.Path) -> AsyncIterator[pathlib.Path]:
    """The agent's plugin, registered with a kubelet in `path`: its socket."""
    time = clock.FakeClock()
    served = plugin.DevicePlugin(core, taking_turns=turns.Turns(time=time), time=time)
    kept = registration.Registration(served, directory=path, time=time)
    async with kubelet.FakeKubelet(path) as known, asyncio.TaskGroup() as group:
        tasks = [group.create_task(served.run()), group.create_task(kept.run())]
        await waiting.until(lambda: known.updates > 0)
        [socket] = path.glob("som-*.sock")
        yield socket
        for task in tasks:
            task.cancel()


async def test_a_ticket_is_chosen_allocated_and_started_and_refusals_are_the_agents_words(
    core: fake_tickets.FakeTickets, tmp_path: pathlib.Path
) -> None:
    async with agent(core, tmp_path) as socket:
        registered = tickets.Plugin(socket)
        following = asyncio.create_task(registered.follow())
        assert await registered.has_options()
        await waiting.until(lambda: registered.healthy == {"n0-0", "n0-2"})

        assert await registered.allocate(["n0-0", "n0-2"]) == ("n0-2", "som.io/lease=lease-of-n0-2")
        core.refusals.append(seams.StartRefused("som: warming 1 of 2", reason="Warming"))
        assert await registered.pre_start("n0-2") == "som: warming 1 of 2"
        assert await registered.pre_start("n0-2") == ""
        assert core.started == ["n0-2"]

        core.allocate_error = SomError("no room")
        with pytest.raises(programs.Refused, match="the agent refused the program: no room"):
            await registered.allocate(["n0-0"])
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_an_agent_that_has_ended_has_no_tickets_and_the_next_one_is_waited_for(
    core: fake_tickets.FakeTickets, tmp_path: pathlib.Path
) -> None:
    async with agent(core, tmp_path) as socket:
        registered = tickets.Plugin(socket)
        following = asyncio.create_task(registered.follow())
        await waiting.until(lambda: bool(registered.healthy))
    await following
    assert not registered.healthy
    with pytest.raises(tickets.Away):
        await registered.allocate(["n0-0"])
    assert await registered.pre_start("n0-0") == tickets.AWAY

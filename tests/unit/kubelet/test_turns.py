"""When a List may follow an Allocate."""

import asyncio

import pytest

from fakes.clock import FakeClock
from som_device_plugin import seams
from som_device_plugin.kubelet import turns

ONE, OTHER = seams.Ticket("n0-1"), seams.Ticket("n0-2")


@pytest.fixture
def taking_turns(clock: FakeClock) -> turns.Turns:
    return turns.Turns(time=clock)


async def may_list(taking_turns: turns.Turns, clock: FakeClock) -> bool:
    """Whether a List may begin now, without that time passes."""

    async def listed() -> None:
        async with taking_turns.listing():
            pass

    listing = asyncio.create_task(listed())
    await clock.settle()
    return listing.done() or not listing.cancel()


async def test_a_list_waits_until_kubelet_has_written_its_books(
    taking_turns: turns.Turns, clock: FakeClock
) -> None:
    async with taking_turns.allocating([ONE]):
        pass
    assert not await may_list(taking_turns, clock)
    await clock.advance(turns.SETTLE_S)
    assert await may_list(taking_turns, clock)


async def test_the_start_of_a_container_shows_that_its_tickets_are_in_the_books(
    taking_turns: turns.Turns, clock: FakeClock
) -> None:
    async with taking_turns.allocating([ONE]):
        pass
    taking_turns.starting([ONE])
    assert await may_list(taking_turns, clock)


@pytest.mark.parametrize("allocated", [[OTHER], [ONE, OTHER], []])
async def test_the_start_of_a_container_says_nothing_of_other_tickets(
    allocated: list[seams.Ticket], taking_turns: turns.Turns, clock: FakeClock
) -> None:
    async with taking_turns.allocating(allocated):
        pass
    taking_turns.starting([ONE])
    assert not await may_list(taking_turns, clock)

"""When a List may follow an Allocate."""

import asyncio

import pytest

from som_device_plugin import seams
from som_device_plugin.kubelet import turns

ONE, OTHER = seams.Ticket("n0-1"), seams.Ticket("n0-2")


@pytest.fixture
def taking_turns(monkeypatch: pytest.MonkeyPatch) -> turns.Turns:
    monkeypatch.setattr(turns, "SETTLE_S", 60.0)
    return turns.Turns()


async def may_list(taking_turns: turns.Turns) -> bool:
    try:
        async with asyncio.timeout(0.2), taking_turns.listing():
            return True
    except TimeoutError:
        return False


async def test_a_list_waits_until_kubelet_has_written_its_books(taking_turns: turns.Turns) -> None:
    async with taking_turns.allocating([ONE]):
        pass
    assert not await may_list(taking_turns)


async def test_the_start_of_a_container_shows_that_its_tickets_are_in_the_books(
    taking_turns: turns.Turns,
) -> None:
    async with taking_turns.allocating([ONE]):
        pass
    taking_turns.starting([ONE])
    assert await may_list(taking_turns)


@pytest.mark.parametrize("allocated", [[OTHER], [ONE, OTHER], []])
async def test_the_start_of_a_container_says_nothing_of_other_tickets(
    allocated: list[seams.Ticket], taking_turns: turns.Turns
) -> None:
    async with taking_turns.allocating(allocated):
        pass
    taking_turns.starting([ONE])
    assert not await may_list(taking_turns)

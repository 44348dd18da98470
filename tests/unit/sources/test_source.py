"""The steps of the source, and who waits for them."""

import asyncio
import pathlib
import threading

import pytest

from fakes import node
from fakes.huge_pages import PAGE
from som_device_plugin.sources.hugetlb import counters
from unit.sources import machines


async def test_a_step_that_nobody_waits_for_any_more_has_its_turn_to_its_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    change = counters.Counters.change

    def slow(own: counters.Counters, *what: int) -> int:
        begun.set()
        may_end.wait()
        return change(own, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(counters.Counters, "change", slow)
    with machines.Machine(tmp_path).running() as machine:
        agent = machine.agent()
        order = node.order(8 * PAGE)
        first = asyncio.create_task(
            agent.source.apply(order, held_bytes=0, on_progress=lambda _reserved: None)
        )
        await asyncio.to_thread(begun.wait)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(agent.source.reserved("a"))
        assert not (await asyncio.wait([second], timeout=0.05))[0]
        may_end.set()
        assert (await second).node_bytes == {0: 4 * PAGE, 1: 0}

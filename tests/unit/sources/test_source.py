"""The steps of the source, and who waits for them."""

import asyncio
import contextlib
import pathlib
import threading
from collections.abc import Iterator

import pytest

from fakes import node
from fakes.huge_pages import PAGE
from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import hugepages
from som_device_plugin.sources.hugetlb import counters, source
from unit.sources import machines


class FakeHold:
    """Keeps what it is told to."""

    def __init__(self) -> None:
        self.free_bytes = 0

    @contextlib.contextmanager
    def locked(self) -> Iterator[seams.Holding]:
        yield seams.Holding(free_bytes=self.free_bytes, held_bytes=0)

    def shrink(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes

    def fill(self, pool_bytes: int) -> None:
        self.free_bytes = pool_bytes

    def remove(self) -> None:
        pass


class Driver(node.FakeDriver):
    def __init__(self) -> None:
        super().__init__(node.FakeKernel(0))
        self.holds: dict[str, FakeHold] = {}

    def hold(self, pool: str, page_bytes: int) -> FakeHold:
        return self.holds.setdefault(pool, FakeHold())


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
    monkeypatch.setattr(hugepages, "page_sizes", lambda: [PAGE])
    with machines.Machine(tmp_path).running() as machine:
        agent = machine.agent()
        pages = source.HugeTLBSource(agent.records, agent.counters, driver=Driver())
        order = v1alpha1.NodePool(
            name="a",
            generation=1,
            unit="2Mi",
            capacity=8 * PAGE,
            source=v1alpha1.Source(huge_tlb=v1alpha1.HugeTLB(page_size="2Mi")),
        )
        first = asyncio.create_task(
            pages.apply(order, held_bytes=0, on_progress=lambda _reserved: None)
        )
        await asyncio.to_thread(begun.wait)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(pages.reserved("a"))
        assert not (await asyncio.wait([second], timeout=0.05))[0]
        may_end.set()
        assert (await second).node_bytes == {0: 4 * PAGE, 1: 0}
        agent.close()

"""Huge pages kept in som.ko, on fakes of it and of the kernel's counters; tests/vm has the real."""

import pathlib
from collections.abc import Iterator

import pytest

from fakes import som_ko
from fakes.huge_pages import PAGE, HugePages
from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import worker
from som_device_plugin.drivers.kernel import abi, donated
from som_device_plugin.linux import cgroups, modules

NODE_BYTES = 4 * 2**30


class World:
    """Two NUMA nodes with 8 huge pages each, and som.ko. `thieves` take a page before a worker."""

    def __init__(self, path: pathlib.Path) -> None:
        self.kernel = HugePages(2)
        self.kernel.write(None, 16)
        self.module = som_ko.SomKo(node_of=lambda address: address // NODE_BYTES)
        self.thieves = 0
        self.hold = donated.Hold(
            self.module,
            state_dir=path,
            pool="a",
            hierarchy=cgroups.Hierarchy(root=path, version=1, others=()),
            page_bytes=PAGE,
            donate=self._donate,
        )

    def _donate(self, number: int, size_bytes: int, node: int) -> bool:
        if self.thieves:
            self.thieves -= 1
            self.kernel.use(1)
        pages = size_bytes // PAGE
        if pages > 16 - self.kernel.used:
            return False
        first = node * NODE_BYTES + (1 + len(self.spans)) * PAGE
        for page in range(pages):
            start = first + page * PAGE
            self.module.call(abi.PoolAdd(pool=number, start=start, bytes=PAGE))
        self.kernel.use(pages)
        return True

    @property
    def spans(self) -> list[som_ko.Span]:
        return [span for pool in self.module.pools_by_number.values() for span in pool.spans]

    @property
    def pages(self) -> list[int]:
        """By node."""
        return [sum(span.node == node for span in self.spans) for node in (0, 1)]

    def holding(self) -> tuple[int, int]:
        with self.hold.locked() as has:
            return has.free_bytes // PAGE, has.held_bytes // PAGE

    def lease(self, pages: int) -> None:
        (number,) = self.module.pools_by_number
        wanted = abi.LeaseCreate(
            pool=number, numa_node=-1, quota_bytes=pages * PAGE, name=b"som:a.1"
        )
        self.module.call(wanted)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.kernel.installed():
        yield made


def test_pages_come_from_the_nodes_that_lack_them(world: World) -> None:
    world.hold.fill({0: 3 * PAGE, 1: 0})
    world.hold.fill({0: 4 * PAGE, 1: 6 * PAGE})
    assert world.pages == [4, 6]
    assert world.holding() == (10, 0)
    world.hold.fill({0: 4 * PAGE, 1: 6 * PAGE})
    assert world.pages == [4, 6]


def test_what_others_took_is_not_waited_for(world: World) -> None:
    world.kernel.use(10)
    world.hold.fill({0: 8 * PAGE, 1: 8 * PAGE})
    assert sum(world.pages) == 6


def test_a_worker_that_others_outran_is_sent_again(world: World) -> None:
    world.thieves = 1
    world.hold.fill({0: 8 * PAGE, 1: 8 * PAGE})
    assert sum(world.pages) == 15


def test_shrinking_takes_the_pages_of_a_node_that_no_lease_holds(world: World) -> None:
    world.hold.fill({0: 4 * PAGE, 1: 4 * PAGE})
    world.lease(2)
    (first, *_) = world.spans
    first.held_bytes = PAGE
    assert world.holding() == (6, 2)
    assert world.hold.free_pages() == {0: 3, 1: 4}
    world.hold.shrink(4 * PAGE, node=0)
    assert world.pages == [2, 4]
    assert first in world.spans
    with pytest.raises(seams.DriverError, match="2Mi more of pool a: containers hold a part"):
        world.hold.shrink(2 * PAGE, node=0)
    assert world.holding() == (3, 2)


def test_pages_that_are_no_longer_the_pools_leave_it(world: World) -> None:
    world.hold.fill({0: 4 * PAGE, 1: 4 * PAGE})
    world.lease(2)
    world.hold.fill({0: 0, 1: 1 * PAGE})
    assert world.holding() == (0, 2)


def test_all_of_it_goes_at_once_and_again(world: World) -> None:
    world.hold.fill({0: 4 * PAGE, 1: 4 * PAGE})
    world.lease(1)
    with pytest.raises(seams.RangeRefused, match="giving back pool a"):
        world.hold.remove()
    world.module.leases_by_number.clear()
    world.hold.shrink(0)
    assert not world.module.pools_by_number
    assert world.hold.free_pages() == {}
    world.hold.remove()


def test_without_som_ko_nothing_is_held_and_nothing_can_be(world: World) -> None:
    world.module.set(is_loaded=False)
    assert world.holding() == (0, 0)
    with pytest.raises(seams.DriverNotLoaded):
        world.hold.fill({0: PAGE})
    world.hold.remove()


def test_an_idle_pool_gives_way_to_another_som_ko(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hold.fill({0: 4 * PAGE})
    world.lease(1)
    monkeypatch.setattr(modules, "loaded", lambda _: v1alpha1.Module(version="0", src_version=""))
    with pytest.raises(seams.DriverNotLoaded, match=r"som\.ko 0 is loaded"):
        world.hold.fill({0: 4 * PAGE})
    assert world.holding() == (3, 1)
    world.module.leases_by_number.clear()
    with pytest.raises(seams.DriverNotLoaded):
        world.hold.fill({0: 4 * PAGE})
    assert not world.module.pools_by_number


def test_the_worker_says_pool_add_as_the_header_does() -> None:
    assert abi.PoolAdd.command == worker.POOL_ADD
    wanted = abi.PoolAdd(pool=3, start=4 * PAGE, bytes=2 * PAGE)
    assert worker.pool_add(3, 4 * PAGE, 2 * PAGE) == bytes(wanted)

"""Scattered memory of a pool in som.ko becomes whole GiB, slowly, and only where that is of use.

What containers use becomes pages of 1 GiB.
"""

import asyncio
import contextlib
import dataclasses
import errno
import os
import pathlib
from collections.abc import AsyncIterator, Mapping

import prometheus_client
import pytest

from fakes import node, som_ko
from fakes.clock import FakeClock
from fakes.reporter import FakeReporter
from som_api import v1alpha1
from som_device_plugin import cdi, changes, database, pools, seams
from som_device_plugin.drivers.kernel import abi, driver
from som_device_plugin.leases import compaction, starts, store
from waiting import until

GIB = 1 << 30
MIB = 1 << 20
STEP = compaction.MOST_BYTES
LARGE = (2 * MIB, GIB)
SMALL = (2 * MIB, GIB - 2 * MIB)


def pool(
    *,
    unit: v1alpha1.Unit = "2Mi",
    free_bytes: int = 2 * GIB,
    whole_bytes: int | None = GIB,
    ordered_bytes: int = 4 * GIB,
    state: pools.State = pools.State.SETTLED,
) -> pools.ActivePool:
    reserved = seams.PoolReserved("a", 4 * GIB, free_bytes, whole_free_bytes=whole_bytes)
    return pools.ActivePool(node.order(ordered_bytes, unit=unit), "Kernel", reserved, state)


@pytest.mark.parametrize(
    ("found", "sizes", "expected"),
    [
        (pool(), LARGE, True),
        (pool(), (), False),
        (pool(), SMALL, False),
        (pool(unit="1Gi"), (), True),
        (pool(ordered_bytes=3 * GIB), (), True),
        (pool(free_bytes=2 * GIB - 2 * MIB), LARGE, False),
        (pool(whole_bytes=2 * GIB), LARGE, False),
        (pool(whole_bytes=None), LARGE, False),
        (pool(state=pools.State.RESERVING), LARGE, False),
        (pool(state=pools.State.RELEASING), LARGE, False),
    ],
    ids=[
        *("large starts", "no starts", "small starts", "units of a GiB", "too large"),
        *("less than a GiB", "whole", "pages of one size", "reserving", "leaving"),
    ],
)
def test_a_pool_gains_if_somebody_can_use_one_more_whole_gib(
    found: pools.ActivePool, sizes: tuple[int, ...], *, expected: bool
) -> None:
    assert compaction.is_worth_it(found, sizes) is expected


@pytest.mark.parametrize(
    ("found", "sizes", "expected"),
    [
        (pool(), LARGE, True),
        (pool(whole_bytes=0, free_bytes=0), LARGE, True),
        (pool(), SMALL, False),
        (pool(), (), False),
        (pool(whole_bytes=None), LARGE, False),
        (pool(ordered_bytes=3 * GIB), LARGE, False),
        (pool(state=pools.State.RESERVING), LARGE, False),
        (pool(state=pools.State.RELEASING), LARGE, False),
        (pool(state=pools.State.REFUSED), LARGE, False),
    ],
    ids=[
        *("a GiB", "nothing free", "less than a GiB", "no starts", "pages of one size"),
        *("too large", "reserving", "leaving", "with another som.ko"),
    ],
)
def test_a_pool_may_be_promoted_if_a_container_has_a_gib_of_it_and_none_is_to_go_back(
    found: pools.ActivePool, sizes: tuple[int, ...], *, expected: bool
) -> None:
    assert compaction.may_promote(found, sizes) is expected


class OnePool(pools.Pools):
    """What the agent knows of a pool of 1 GiB units; `refresh` is its next look."""

    def __init__(self, hold: seams.RangeHold) -> None:
        self.hold = hold
        self.refresh()

    def refresh(self) -> None:
        has = self.hold.holding()
        reserved = seams.PoolReserved(
            *("a", has.free_bytes + has.held_bytes, has.free_bytes),
            whole_free_bytes=has.whole_free_bytes,
        )
        self.found = dataclasses.replace(
            pool(unit="1Gi", ordered_bytes=reserved.capacity_bytes), reserved=reserved
        )

    def pools(self) -> Mapping[str, pools.ActivePool]:
        return {"a": self.found}


class World:
    """Three GiB in som.ko, of which leases use 96 MiB of one and 2 MiB of another.

    Of the one, 2 MiB cannot move.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.module = som_ko.SomKo()
        self.clock = FakeClock()
        kernel = driver.Kernel(state_dir=path, module=self.module)
        hold = kernel.ranges("a", "External")
        for start in (4, 5, 6):
            hold.add(start * GIB, GIB)
        ((number, kernels),) = self.module.pools_by_number.items()
        self.module.call(abi.LeaseCreate(pool=number, quota_bytes=GIB // 2, name=b"a"))
        self.spans = kernels.spans
        self.spans[0].held_bytes, self.spans[1].held_bytes = 3 * STEP, 2 * MIB
        self.spans[0].stuck_bytes = 2 * MIB
        self.pools = OnePool(hold)
        self.calls = 0
        self.promoted_at_s: list[float] = []
        self.refusal: OSError | None = None
        self.module.set(refuse=self._count)
        self.starts = starts.Starts(
            leases=store.LeaseStore(database.open_database(path / "som.db"), changes.Changes()),
            drivers={"Kernel": kernel},
            specs=cdi.Specs(path),
            boot_id="this",
            reporter=FakeReporter(),
            time=self.clock,
        )

    def _count(self, argument: abi.Argument) -> None:
        if isinstance(argument, abi.PoolCompact | abi.PoolPromote):
            self.calls += isinstance(argument, abi.PoolCompact)
            if isinstance(argument, abi.PoolPromote):
                self.promoted_at_s.append(self.clock.monotonic())
            if self.refusal:
                raise self.refusal

    def add_start(self, of: str, size_bytes: int) -> None:
        added = seams.Start(seams.LeaseId(f"{of * 16}"), 1, of, 0, size_bytes, 2 * MIB, "Kernel")
        self.starts.leases.add_spare(added, boot_id="this")

    def use(self, *small: int) -> som_ko.Lease:
        """A container has so many GiB, behind pages of 2 MiB: see `som_ko.Lease.small`."""
        self.add_start("a", GIB)
        ((_, lease),) = self.module.leases_by_number.items()
        lease.is_movable, lease.small = True, list(small)
        return lease

    @property
    def held_bytes(self) -> list[int]:
        return [span.held_bytes for span in self.spans]


@contextlib.asynccontextmanager
async def compacted(path: pathlib.Path) -> AsyncIterator[World]:
    """While it is compacted."""
    world = World(path)
    running = asyncio.create_task(
        compaction.Compaction(
            own_starts=world.starts, own_pools=world.pools, time=world.clock
        ).run()
    )
    yield world
    running.cancel()
    await asyncio.wait([running])


async def calls(world: World, number: int) -> None:
    await world.clock.until(lambda: world.calls >= number, step_s=0.1)


async def test_a_pool_is_compacted_until_nothing_moves_and_again_when_it_has_changed(
    tmp_path: pathlib.Path,
) -> None:
    async with compacted(tmp_path) as world:
        world.spans[1].held_bytes = 5 * STEP // 2
        begun_s = world.clock.monotonic()
        await world.clock.until(lambda: world.held_bytes[1] == 0, step_s=0.1)
        assert world.calls == 3
        assert world.clock.monotonic() - begun_s >= 3 * compaction.EVERY_S
        assert world.starts.driver(world.pools.found).moves("a") == seams.Moves(5 * STEP // 2, 0)
        await world.clock.advance(10 * compaction.EVERY_S)
        world.pools.refresh()
        await world.clock.advance(10 * compaction.EVERY_S)
        assert world.calls == 3
        world.spans[1].stuck_bytes = world.spans[1].held_bytes = 2 * MIB
        world.pools.refresh()
        await calls(world, 4)
        await world.clock.advance(10 * compaction.EVERY_S)
        assert world.calls == 4


async def test_a_pool_that_som_ko_does_not_compact_is_left_alone_until_it_changes(
    tmp_path: pathlib.Path,
) -> None:
    async with compacted(tmp_path) as world:
        world.refusal = OSError(errno.EINTR, os.strerror(errno.EINTR))
        await calls(world, 1)
        await world.clock.advance(10 * compaction.EVERY_S)
        assert world.calls == 1
        world.refusal = None
        (number,) = world.module.pools_by_number
        world.module.call(abi.LeaseCreate(pool=number, quota_bytes=2 * MIB, name=b"b"))
        world.pools.refresh()
        await calls(world, 2)
        await world.clock.until(lambda: world.held_bytes[1] == 0, step_s=0.1)


def asked() -> float:
    """How many GiB."""
    name = "som_agent_pool_promotions_total"
    return prometheus_client.REGISTRY.get_sample_value(name, {"pool": "a"}) or 0.0


async def test_a_scattered_gib_is_moved_into_one_that_compaction_has_made_whole_and_promoted(
    tmp_path: pathlib.Path,
) -> None:
    async with compacted(tmp_path) as world:
        for span, held_bytes in zip(world.spans, (GIB - 2 * STEP, 2 * STEP, 2 * MIB), strict=True):
            span.held_bytes, span.stuck_bytes = held_bytes, 0
        world.spans[2].stuck_bytes = 2 * MIB
        lease, before = world.use(GIB), asked()
        await world.clock.until(lambda: lease.small == [], step_s=0.1)
        assert world.calls == 3
        assert world.held_bytes == [0, GIB, 2 * MIB]
        # som.ko is asked in a thread, and what it answered is counted afterwards.
        await until(lambda: asked() - before == 1)


async def test_a_gib_that_moved_takes_half_a_minute_of_all_moves(tmp_path: pathlib.Path) -> None:
    async with compacted(tmp_path) as world:
        for span, held_bytes in zip(world.spans, (GIB, 0, 0), strict=True):
            span.held_bytes, span.stuck_bytes = held_bytes, 0
        lease = world.use(GIB)
        await world.clock.until(lambda: lease.small == [], step_s=0.125)
        assert (world.held_bytes, world.calls) == ([0, GIB, 0], 1)
        world.spans[0].held_bytes = 2 * MIB
        world.pools.refresh()
        await world.clock.until(lambda: world.calls == 2, step_s=0.125)
        lasted_s = world.clock.monotonic() - world.promoted_at_s[0]
        assert lasted_s >= GIB / STEP * compaction.EVERY_S


async def test_a_pool_is_compacted_for_a_container_that_has_a_gib_whatever_others_asked_for(
    tmp_path: pathlib.Path,
) -> None:
    async with compacted(tmp_path) as world:
        world.pools.found = dataclasses.replace(world.pools.found, order=node.order(4 * GIB))
        world.use(0)
        await world.clock.until(lambda: len(world.promoted_at_s) == 1, step_s=0.125)
        assert world.calls == 1


async def test_som_ko_is_asked_for_whole_pages_once_a_minute_also_after_it_refused(
    tmp_path: pathlib.Path,
) -> None:
    async with compacted(tmp_path) as world:
        lease, before = world.use(0, 0), asked()
        world.refusal = OSError(errno.EINTR, os.strerror(errno.EINTR))
        await world.clock.until(lambda: len(world.promoted_at_s) == 2, step_s=1.0)
        world.refusal = None
        await world.clock.until(lambda: len(world.promoted_at_s) == 4, step_s=1.0)
        await until(lambda: asked() - before == 2)
        assert lease.small == []
        assert world.promoted_at_s[3] - world.promoted_at_s[0] >= 3 * compaction.REST_S


async def test_where_no_container_has_a_gib_som_ko_is_asked_for_nothing(
    tmp_path: pathlib.Path,
) -> None:
    async with compacted(tmp_path) as world:
        world.add_start("a", GIB - 2 * MIB)
        world.add_start("b", GIB)
        await calls(world, 3)
        assert world.promoted_at_s == []

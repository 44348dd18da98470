"""Spares of a node: built from history, adopted, cut, given up; over crashes of the agent."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence

import pytest

from fakes import node
from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.leases import keeper, state
from unit.leases.worlds import CAPACITY, Killed, World

PAGES = CAPACITY // node.PAGE


async def with_spare(world: World, count: int) -> node.Superblock:
    """A pod of so many pages came and went, and a spare of its size was built."""
    await world.start_container(await world.admit("first", count))
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    await world.keep_spares()
    (spare,) = world.spares()
    return spare


async def test_what_a_pod_freed_is_zeroed_and_the_next_one_of_its_size_gets_it(
    world: World,
) -> None:
    spare = await with_spare(world, 4)
    pod = await world.admit("next", 4)
    assert await world.start_container(pod)
    assert pod.memory is spare


async def test_a_larger_spare_is_cut_before_its_container_starts(world: World) -> None:
    spare = await with_spare(world, 16)
    pod = await world.admit("next", 9)
    assert await world.start_container(pod)
    assert pod.memory is spare
    assert world.kernel.free_bytes() == CAPACITY - 9 * node.PAGE
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0
    assert not world.kernel.paths, "the spare's own path is gone as well"


async def test_a_start_of_another_size_gets_the_pages_of_a_spare(world: World) -> None:
    await with_spare(world, PAGES // 2)
    pod = await world.admit("large", PAGES)
    assert await world.start_container(pod)


async def test_a_spare_under_way_gives_way_to_a_start_that_needs_its_pages(world: World) -> None:
    await world.start_container(await world.admit("first", 20))
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    build, begun = world.driver.build, asyncio.Event()

    async def slow(start: seams.Start, **named: object) -> object:
        if named["is_spare"]:
            begun.set()
            await asyncio.Event().wait()
        return await build(start, **named)

    world.driver.build = slow
    keeping = asyncio.create_task(world.keep_spares())
    await begun.wait()
    pod = await world.admit("large", PAGES)
    held = node.Superblock(spare_start(world))
    world.kernel.superblocks.append(held)
    assert await world.start_container(pod)
    await keeping


async def test_a_start_is_not_refused_for_pages_that_a_spare_is_about_to_take(
    world: World,
) -> None:
    await world.start_container(await world.admit("first", 20))
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    begun = late_is_first(world, "")
    keeping = asyncio.create_task(world.keep_spares())
    await begun.wait()
    assert await world.start_container(await world.admit("large", PAGES))
    await keeping


async def test_a_spare_gives_way_when_another_start_is_about_to_take_what_is_free(
    world: World,
) -> None:
    await with_spare(world, 8)
    first = await world.admit("first", 20)
    begun = late_is_first(world, first.pod.uid)
    starting = asyncio.create_task(world.start_container(first))
    await begun.wait()
    assert await world.start_container(await world.admit("second", 12))
    assert await starting


def late_is_first(world: World, late: str) -> asyncio.Event:
    """The build of `late`, a pod's UID or "" for a spare, takes its pages just before the next.

    Set is when it was begun.
    """
    build, begun, next_is_here = world.driver.build, asyncio.Event(), asyncio.Event()

    async def build_late(start: seams.Start, **named: object) -> object:
        lease = world.records.lease(start.lease_id)
        assert lease is not None
        if late == (lease.owner.uid if lease.owner else ""):
            begun.set()
            await next_is_here.wait()
        else:
            next_is_here.set()
            await world.clock.settle()
        return await build(start, **named)

    world.driver.build = build_late
    return begun


async def test_a_start_waits_for_a_spare_that_ends_for_another_start(world: World) -> None:
    await world.start_container(await world.admit("first", 20))
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    build, begun = world.driver.build, asyncio.Event()
    is_ending, may_end = asyncio.Event(), asyncio.Event()

    async def slow_to_end(start: seams.Start, **named: object) -> object:
        if not named["is_spare"]:
            return await build(start, **named)
        taken = node.Superblock(start)
        world.kernel.superblocks.append(taken)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            # It takes pages until it has gone.
            await world.clock.until(lambda: taken.truncated)
            taken.truncated = False
            is_ending.set()
            await may_end.wait()
            world.kernel.superblocks.remove(taken)
        return None

    world.driver.build = slow_to_end
    keeping = asyncio.create_task(world.keep_spares())
    await begun.wait()
    pods = [await world.admit(name, PAGES // 2) for name in ("first", "second")]
    starting = [asyncio.create_task(world.start_container(pods[0]))]
    await is_ending.wait()
    looks = world.pools.refills
    starting.append(asyncio.create_task(world.start_container(pods[1])))
    await world.clock.until(lambda: world.pools.refills > looks)
    may_end.set()
    assert await asyncio.gather(*starting) == [True, True]
    await keeping


async def test_a_start_waits_for_what_is_cut_off_a_spare_for_another_start(world: World) -> None:
    await with_spare(world, 16)
    build, begun, may_cut = world.driver.build, asyncio.Event(), asyncio.Event()

    async def slow_to_cut(start: seams.Start, **named: object) -> object:
        if start.built_as:
            begun.set()
            await may_cut.wait()
        return await build(start, **named)

    world.driver.build = slow_to_cut
    small, large = await world.admit("small", 9), await world.admit("large", PAGES - 9)
    starting = [asyncio.create_task(world.start_container(small))]
    await begun.wait()
    looks = world.pools.refills
    starting.append(asyncio.create_task(world.start_container(large)))
    await world.clock.until(lambda: world.pools.refills > looks)
    may_cut.set()
    assert await asyncio.gather(*starting) == [True, True]


def spare_start(world: World) -> seams.Start:
    """The start of the only spare."""
    (start,) = (r.start for each in world.records.leases() if each.is_spare for r in each.starts)
    return start


async def test_a_damaged_spare_is_given_to_nobody(world: World) -> None:
    spare = await with_spare(world, 4)
    look, damage = world.driver.look, {spare.start.built: seams.Usage(node.PAGE, node.PAGE)}

    def damaged(starts: Sequence[seams.Start]) -> object:
        world.driver.look = look
        return dataclasses.replace(look(starts), usage=damage)

    world.driver.look = damaged
    pod = await world.admit("next", 4)
    assert await world.start_container(pod)
    assert pod.memory is not spare


async def test_nothing_is_built_while_a_container_waits(world: World) -> None:
    await world.start_container(await world.admit("first", 4))
    with world.keeper.container_waits():
        await world.keep_spares()
    assert world.spares() == []
    await world.keep_spares()
    assert len(world.spares()) == 1


async def test_builds_wait_until_nothing_has_changed_for_a_moment(world: World) -> None:
    running = asyncio.create_task(world.keeper.run())
    await world.start_container(await world.admit("first", 4))
    await world.clock.advance(keeper.QUIET_S / 2)
    assert len(world.records.leases()) == 1
    await world.clock.advance(keeper.QUIET_S)
    assert len(world.records.leases()) == 2
    running.cancel()
    await asyncio.wait([running])


async def test_a_pool_that_is_to_shrink_has_no_spares(world: World) -> None:
    await with_spare(world, 4)
    world.pools.shrinking = True
    await world.keeper.keep()
    assert world.kernel.used_bytes() == 0
    await world.keep_spares()
    assert world.kernel.used_bytes() == 0


async def test_a_sompool_that_names_what_to_keep_warm_is_obeyed(world: World) -> None:
    world.pools.warm = [
        v1alpha1.Warm(size=4 * node.PAGE, count=2),
        v1alpha1.Warm(size=node.PAGE, count=1),
    ]
    for _ in range(4):
        await world.keep_spares()
    sizes = [spare.start.size_bytes // node.PAGE for spare in world.spares()]
    assert sizes == [4, 4, 1]
    world.pools.warm = []
    await world.keep_spares()
    assert world.kernel.used_bytes() == 0


async def test_a_build_that_is_ended_before_it_began_leaves_nothing(world: World) -> None:
    world.pools.warm = [v1alpha1.Warm(size=node.PAGE, count=1)]
    await world.keeper.keep()
    assert len(world.records.leases()) == 1
    world.pools.warm = []
    await world.keeper.keep()
    await world.reconciler.reconcile()
    assert world.records.leases() == []


async def test_a_build_that_fails_is_tried_again_later(world: World) -> None:
    await world.start_container(await world.admit("first", 4))
    tries = 0

    async def refused(start: seams.Start, **_: object) -> None:
        nonlocal tries
        tries += 1
        raise seams.DriverError("no")

    world.driver.build = refused
    await world.keep_spares()
    for _ in range(3):
        await world.keeper.keep()
    assert tries == 1
    await world.clock.advance(2 * keeper.RETRY_S)
    await world.keep_spares()
    assert tries == 2


async def test_a_quiet_node_writes_nothing_and_builds_nothing(world: World) -> None:
    await with_spare(world, 4)
    writes = world.connection.total_changes
    for _ in range(3):
        await world.keep_spares()
    assert world.connection.total_changes == writes


async def test_history_outlives_the_agent_and_the_boot(world: World) -> None:
    await with_spare(world, 4)
    world.kernel.superblocks.clear()
    world.boot_id = "boot-2"
    world.start_agent()
    await world.reconciler.reconcile()
    assert [lease for lease in world.records.leases() if lease.is_spare] == []
    await world.keep_spares()
    assert [spare.start.size_bytes for spare in world.spares()] == [4 * node.PAGE]


@pytest.mark.parametrize("calls", range(24))
async def test_an_agent_killed_while_a_spare_is_adopted_gives_zeroes_when_it_is_back(
    world: World, calls: int
) -> None:
    await with_spare(world, 4)
    pod = await world.admit("next", 3)
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.start_container(pod)
    world.check_specs()
    await world.crash()
    world.check()
    pod.container_runs = False
    assert await world.start_container(pod)
    world.cluster.running.clear()
    world.pools.shrinking = True
    await world.keeper.keep()
    for _ in range(2):
        await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0
    assert not world.kernel.paths


@pytest.mark.parametrize("calls", range(12))
async def test_an_agent_killed_while_a_spare_is_built_has_it_or_its_pages(
    world: World, calls: int
) -> None:
    await world.start_container(await world.admit("first", 4))
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.keep_spares()
    await world.crash()
    await world.reconciler.reconcile()
    spares = sum(block.start.size_bytes for block in world.spares())
    assert world.kernel.used_bytes() == 4 * node.PAGE + spares
    states = [r.state for each in world.records.leases() if each.is_spare for r in each.starts]
    assert states in ([], [state.State.READY])

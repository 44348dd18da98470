"""Passes over all leases, beside starts and with failures."""

import asyncio
import dataclasses
import shutil
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from fakes import node
from som_device_plugin import seams
from som_device_plugin.leases import decide, state
from unit.leases.worlds import World


async def test_a_lease_that_cannot_be_taken_away_keeps_no_other_from_it(world: World) -> None:
    for name in ("first", "second"):
        await world.start_container(await world.admit(name, 4))
    world.cluster.running.clear()
    first = world.store.leases()[0].lease_id
    revoke = world.driver.revoke

    def refused(start: seams.Start) -> None:
        if start.lease_id == first:
            raise seams.DriverError("covered")
        revoke(start)

    world.driver.revoke = refused
    for _ in range(2):
        await world.reconciler.reconcile()
    assert [lease.lease_id for lease in world.store.leases()] == [first]
    world.driver.revoke = revoke
    for _ in range(2):
        await world.reconciler.reconcile()
    assert world.store.leases() == []


async def test_a_pass_that_fails_is_tried_again(world: World) -> None:
    await world.start_container(await world.admit("db", 4))
    world.cluster.running.clear()
    look = world.driver.look
    refusals = iter([seams.DriverError("the cgroup hierarchy is gone")] * 3)

    def refused(starts: Sequence[seams.Start]) -> object:
        for refusal in refusals:
            raise refusal
        return look(starts)

    world.driver.look = refused
    running = asyncio.create_task(world.reconciler.run())
    await world.clock.until(lambda: not world.store.leases(), step_s=1)
    running.cancel()


async def test_passes_end_when_told_although_something_was_freed_in_that_moment(
    world: World,
) -> None:
    running = asyncio.create_task(world.reconciler.run())
    await world.clock.settle()
    world.starts.wake.set()
    running.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([running])


async def test_those_who_wait_for_a_reconciliation_share_one(world: World) -> None:
    passes = 0
    look = world.driver.look

    def counted(starts: Sequence[seams.Start]) -> object:
        nonlocal passes
        passes += 1
        return look(starts)

    world.driver.look = counted
    await asyncio.gather(*(world.reconciler.reconcile() for _ in range(20)))
    assert passes == 2


async def test_a_start_that_is_built_during_a_pass_is_no_stray(world: World) -> None:
    pod = await world.admit("db", 4)
    look = world.driver.look
    loop = asyncio.get_running_loop()

    def late(starts: Sequence[seams.Start]) -> object:
        world.driver.look = look
        asyncio.run_coroutine_threadsafe(world.start_container(pod), loop).result(10)
        return look(starts)

    world.driver.look = late
    await world.reconciler.reconcile()
    outcomes = {finding.outcome for finding in world.reconciler.findings}
    assert decide.Outcome.STRAY not in outcomes


async def test_a_restart_during_a_pass_is_no_lost_mount(world: World) -> None:
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    look = world.driver.look
    loop = asyncio.get_running_loop()

    def late(starts: Sequence[seams.Start]) -> object:
        world.driver.look = look
        asyncio.run_coroutine_threadsafe(world.start_container(pod), loop).result(10)
        return dataclasses.replace(look(starts), attached={})

    world.driver.look = late
    await world.reconciler.reconcile()
    outcomes = {finding.outcome for finding in world.reconciler.findings}
    assert outcomes == {decide.Outcome.IN_USE}


@pytest.mark.parametrize(("keep", "reports"), [(False, ["ContentKept"]), (True, [])])
async def test_a_restart_while_no_agent_served_is_reported_once(
    world: World, keep: bool, reports: list[str]
) -> None:
    pod = await world.admit("db", 4, keep=keep)
    await world.start_container(pod)
    now_s = world.clock.now().timestamp()
    before, after = now_s - 2, now_s + 2
    for restarts in ({}, {"main": before}, {"main": after}, {"main": after}):
        pod.pod = dataclasses.replace(pod.pod, restarts=restarts)
        await world.reconciler.reconcile()
    assert [event.reason for event in world.events] == reports
    world.events.clear()
    await world.crash()
    await world.reconciler.reconcile()
    assert [event.reason for event in world.events] == reports


@pytest.mark.parametrize("is_bound", [False, True])
async def test_a_lease_that_was_replaced_before_it_had_memory_is_forgotten(
    world: World, is_bound: bool
) -> None:
    pod = await world.admit("db", 40)
    if is_bound:
        assert not await world.start_container(pod)
    newer = await world.service.allocate([pod.ticket])
    await world.reconciler.reconcile()
    assert [lease.lease_id for lease in world.store.leases()] == [newer]


async def test_specs_of_another_boot_and_of_nobody_go_before_anything_is_served(
    world: World,
) -> None:
    await world.start_container(await world.admit("db", 4))
    (spec,) = world.cdi_dir.iterdir()
    spec.with_name("som.io-lease-0123456789abcdef.json").touch()
    world.kernel.superblocks.clear()
    world.boot_id = "boot-2"
    world.start_agent()
    await world.reconciler.reconcile()
    assert list(world.cdi_dir.iterdir()) == []


async def test_a_directory_of_specs_that_is_gone_keeps_no_memory_from_going_back(
    world: World,
) -> None:
    await world.start_container(await world.admit("db", 4))
    shutil.rmtree(world.cdi_dir)
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0
    assert world.pools.refills == 1


async def test_a_spec_that_somebody_deleted_is_there_again_after_a_pass(world: World) -> None:
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    (spec,) = world.cdi_dir.iterdir()
    spec.unlink()
    await world.reconciler.reconcile()
    world.check_spec(pod.memory, pod.pod)


async def test_one_lease_that_nobody_foresaw_keeps_no_other_from_being_released(
    world: World,
) -> None:
    for name in ("first", "second"):
        await world.start_container(await world.admit(name, 4))
    world.cluster.running.clear()
    first = world.store.leases()[0].lease_id
    revoke = world.driver.revoke

    def poisoned(start: seams.Start) -> None:
        if start.lease_id == first:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "poison")
        revoke(start)

    world.driver.revoke = poisoned
    for _ in range(2):
        await world.reconciler.reconcile()
    assert [lease.lease_id for lease in world.store.leases()] == [first]


@pytest.fixture
async def held(world: World) -> AsyncIterator[World]:
    """A pod that has gone and whose memory is pinned; the reconciler runs."""
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    pod.memory.pinned_bytes = node.PAGE
    world.cluster.running.clear()
    running = asyncio.create_task(world.reconciler.run())
    yield world
    running.cancel()
    await asyncio.wait([running])


async def test_who_holds_memory_is_reported_once_with_its_last_owner(held: World) -> None:
    held.driver.culprits = lambda start: ["pid 7 (thief): mapping"]
    await held.clock.until(lambda: bool(held.events), step_s=1)
    await held.reconciler.reconcile()
    await held.clock.advance(60)
    [event] = held.events
    assert event.reason == "LeaseHeld"
    assert event.message.startswith("2Mi of default/db/main (lease ")
    assert "held by pid 7 (thief): mapping; not offered meanwhile" in event.message
    [kept] = held.reconciler.held.values()
    assert (str(kept.owner), kept.size_bytes) == ("default/db/main", node.PAGE)


@pytest.mark.parametrize(
    "error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, ""), RecursionError()]
)
async def test_a_diagnosis_that_fails_ends_nothing(held: World, error: Exception) -> None:
    def fail(start: seams.Start) -> None:
        raise error

    held.driver.culprits = fail
    await held.clock.until(lambda: bool(held.events), step_s=1)
    assert "could not be found; the agent's log says why" in held.events[0].message
    assert await held.start_container(await held.admit("next", 4))


async def test_a_diagnosis_that_is_blocked_by_a_stranger_delays_no_start(held: World) -> None:
    blocked = threading.Event()
    held.driver.culprits = lambda start: blocked.wait()
    held.reconciler._diagnosis._limit_s = 0.05
    await held.clock.until(lambda: bool(held.events), step_s=1)
    assert "was not found within" in held.events[0].message
    assert await held.start_container(await held.admit("next", 4))
    blocked.set()


async def test_memory_whose_holder_keeps_it_from_being_truncated_is_tried_again(
    held: World,
) -> None:
    tries = 0
    revoke = held.driver.revoke
    [block] = held.kernel.superblocks

    def resisted(start: seams.Start) -> None:
        nonlocal tries
        tries += 1
        revoke(start)

    held.driver.revoke = resisted
    look = held.driver.look
    held.driver.look = lambda starts: dataclasses.replace(
        look(starts), resisting=frozenset({block.start.built})
    )
    await held.clock.until(lambda: tries > 2, step_s=1)
    outcomes = {found.outcome for found in held.reconciler.findings}
    assert state.Event.RESISTS in outcomes
    block.pinned_bytes = 0
    await held.clock.until(lambda: not held.store.leases(), step_s=1)
    await held.clock.until(lambda: held.reconciler.held == {}, step_s=1)

"""Starts of containers: who gets memory, whose it is, and what a refusal says."""

import asyncio
import dataclasses
import errno
import json
import pathlib
from collections.abc import Callable, Sequence

import pytest

from fakes import node
from som_api import SomError
from som_device_plugin import cdi, seams
from som_device_plugin.leases import state
from unit.leases.worlds import TICKETS, World

Progress = Callable[[int], None]

KUBELETS_PATIENCE_S = 30


async def test_a_restarted_container_gets_new_memory(world: World) -> None:
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    first = pod.memory
    await world.start_container(pod)
    assert pod.memory is not first


async def test_memory_of_an_earlier_start_that_resists_costs_its_successor_no_spec(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    first = pod.memory
    first.pinned_bytes = node.PAGE
    await world.start_container(pod)
    look = world.driver.look
    world.driver.look = lambda starts: dataclasses.replace(
        look(starts), resisting=frozenset({first.start.built})
    )
    # It would write the spec again.
    monkeypatch.setattr(world.starts, "tidy_specs", lambda: None)
    await world.reconciler.reconcile()
    world.check_spec(pod.memory, pod.pod)


async def test_a_spec_that_cannot_be_written_refuses_the_start_and_keeps_what_was_built(
    world: World,
) -> None:
    pod = await world.admit("db", 4)
    world.cdi_dir.rmdir()
    with pytest.raises(cdi.CdiError, match="No such file or directory"):
        await world.service.pre_start([pod.ticket])
    world.cdi_dir.mkdir()
    await world.start_container(pod)
    assert len(world.kernel.superblocks) == 1


async def test_a_container_that_asks_for_libsom_finds_it_also_after_the_agents_restart(
    world: World,
) -> None:
    pod = await world.admit("db", 4)
    preload = "/usr/lib/som/libsom.so:/own.so"
    request = dataclasses.replace(pod.pod.containers[0], preload=preload)
    pod.pod = dataclasses.replace(pod.pod, containers=(request,))
    with pytest.raises(cdi.CdiError, match="image has no libsom"):
        await world.service.pre_start([pod.ticket])
    world.starts._preloadable = pathlib.Path("/var/lib/som/libsom/libsom.so")
    await world.service.pre_start([pod.ticket])
    [spec] = world.cdi_dir.glob("*.json")
    edits = json.loads(spec.read_text())["devices"][0]["containerEdits"]
    assert f"LD_PRELOAD={preload}" in edits["env"]
    assert edits["mounts"][1:] == [
        {
            "hostPath": "/var/lib/som/libsom/libsom.so",
            "containerPath": "/usr/lib/som/libsom.so",
            "options": ["bind", "ro", "nosuid", "nodev", "rprivate"],
        }
    ]
    spec.unlink()
    world.starts.tidy_specs()
    assert json.loads(spec.read_text())["devices"][0]["containerEdits"] == edits


async def test_a_warm_restart_gets_its_content_back_although_its_spec_was_lost(
    world: World,
) -> None:
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    (spec,) = world.cdi_dir.iterdir()
    spec.unlink()
    first = pod.memory
    assert await world.start_container(pod)
    assert pod.memory is first


async def test_a_warm_restart_gets_its_content_back(world: World) -> None:
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    first = pod.memory
    await world.start_container(pod)
    assert pod.memory is first


async def test_each_lease_is_served_by_the_driver_of_its_pool(world: World) -> None:
    kernels = {"Fake": world.kernel, "Large": world.large_kernel}
    small, large = await world.admit("small", 4), await world.admit("large", 2, unit="1Gi")
    for pod in (small, large):
        await world.service.pre_start([pod.ticket])
    for name, kernel in kernels.items():
        assert [block.start.driver for block in kernel.superblocks] == [name]
        assert [block.mounted for block in kernel.superblocks] == [True]

    await world.crash()
    assert not any(block.truncated for kernel in kernels.values() for block in kernel.superblocks)
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    assert [kernel.used_bytes() for kernel in kernels.values()] == [0, 0]
    assert world.store.leases() == []


async def test_a_repeated_pre_start_while_warming_continues_the_same_start(world: World) -> None:
    pod = await world.admit("db", 4)
    gate, building = asyncio.Event(), asyncio.Event()
    build = world.driver.build

    async def slow(start: seams.Start, *, on_progress: Progress, **_: bool) -> object:
        building.set()
        await gate.wait()
        return await build(start, on_progress=on_progress)

    world.driver.build = slow
    first = asyncio.create_task(world.service.pre_start([pod.ticket]))
    await building.wait()
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(world.service.pre_start([pod.ticket]))
    gate.set()
    await second
    assert len(world.kernel.superblocks) == 1


async def test_a_pod_deleted_while_it_warms_frees_its_memory(world: World) -> None:
    pod = await world.admit("db", 4)
    building = asyncio.Event()

    async def stuck(start: seams.Start, *, on_progress: Progress, **_: bool) -> None:
        building.set()
        await asyncio.Event().wait()

    world.driver.build = stuck
    waiting = asyncio.create_task(world.service.pre_start([pod.ticket]))
    await building.wait()
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    with pytest.raises(seams.StartRefused, match="its pod is gone"):
        await waiting
    await world.reconciler.reconcile()
    assert world.store.leases() == []


async def test_short_memory_says_what_is_free_and_who_holds_the_rest(world: World) -> None:
    holder = await world.admit("big", 30)
    await world.start_container(holder)
    pod = await world.admit("db", 4)
    with pytest.raises(seams.StartRefused) as refused:
        await world.service.pre_start([pod.ticket])
    assert "needs 8Mi" in str(refused.value)
    assert "has 4Mi free of 64Mi; held by: default/big/main 60Mi" in str(refused.value)


async def test_a_pod_that_goes_while_it_waits_for_memory_gets_no_start(world: World) -> None:
    pod = await world.admit("db", 40)
    look = world.driver.look

    def pod_goes(starts: Sequence[seams.Start]) -> object:
        world.cluster.running.clear()
        return look(starts)

    world.driver.look = pod_goes
    with pytest.raises(seams.StartRefused, match="has ended or was replaced meanwhile"):
        await world.service.pre_start([pod.ticket])
    assert world.store.leases() == []


async def test_memory_of_a_pod_that_just_went_is_found_by_the_next_start(world: World) -> None:
    await world.start_container(await world.admit("old", 32))
    world.cluster.running.clear()
    pod = await world.admit("new", 32)
    assert await world.start_container(pod)


async def test_after_a_reboot_the_lease_keeps_its_owner_and_is_built_anew(world: World) -> None:
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    world.kernel.superblocks.clear()
    world.boot_id = "boot-2"
    world.start_agent()
    await world.reconciler.reconcile()
    assert await world.start_container(pod)
    (lease,) = world.store.leases()
    assert [record.state for record in lease.starts] == [state.State.DELIVERED]


async def test_a_ticket_without_a_lease_says_that_the_store_was_lost(world: World) -> None:
    with pytest.raises(seams.StartRefused, match="store was lost"):
        await world.service.pre_start([TICKETS[0]])


async def test_one_ticket_in_two_live_pods_is_reported_and_the_first_keeps_running(
    world: World,
) -> None:
    first = await world.admit("first", 4)
    await world.start_container(first)
    await world.service.allocate([first.ticket])
    second = dataclasses.replace(
        first,
        pod=dataclasses.replace(first.pod, name="second", uid=seams.PodUid("uid-9")),
        container_runs=False,
    )
    world.cluster.running.append(second)
    with pytest.raises(seams.StartRefused, match="two live pods"):
        await world.service.pre_start([second.ticket])
    assert [event.reason for event in world.events] == ["TicketFault"]
    world.check()
    first.container_runs = False
    assert not await world.start_container(first)
    world.cluster.running.remove(second)
    await world.reconciler.reconcile()
    assert await world.start_container(first)


async def test_a_third_pod_with_the_ticket_does_not_get_the_seconds_lease(world: World) -> None:
    first = await world.admit("first", 4)
    await world.start_container(first)
    await world.service.allocate([first.ticket])
    second, third = (
        node.FakePod(
            dataclasses.replace(first.pod, name=name, uid=seams.PodUid(name)), first.ticket
        )
        for name in ("second", "third")
    )
    world.cluster.running.append(second)
    assert not await world.start_container(second)
    await world.service.allocate([first.ticket])
    world.cluster.running = [second, third]
    await world.reconciler.reconcile()
    for pod in (second, third):
        assert not await world.start_container(pod)
    world.cluster.running = [third]
    await world.reconciler.reconcile()
    assert await world.start_container(third)


def test_free_tickets_are_healthy_only_while_a_pool_can_serve(world: World) -> None:
    asyncio.run(world.admit("db", 4))
    world.pools.ready = False
    healthy = [device.ticket for device in world.service.devices() if device.healthy]
    assert healthy == [world.cluster.running[0].ticket]


async def test_a_start_whose_outcome_could_not_be_stored_is_finished_when_the_disk_has_room(
    world: World,
) -> None:
    pod = await world.admit("db", 4)
    build = world.driver.build

    async def built_as_the_disk_fills_up(
        start: seams.Start, *, on_progress: Progress, **_: bool
    ) -> object:
        world.disk(full=True)
        return await build(start, on_progress=on_progress)

    world.driver.build = built_as_the_disk_fills_up
    with pytest.raises(SomError, match=r"writing the agent's store.*free space"):
        await world.service.pre_start([pod.ticket])
    with pytest.raises(SomError, match="writing the agent's store"):
        await world.service.allocate([TICKETS[3]])
    await world.reconciler.reconcile()
    world.disk(full=False)
    await world.reconciler.reconcile()
    assert await world.start_container(pod)
    assert len(world.kernel.superblocks) == 1


async def test_a_start_that_fails_in_an_unknown_way_is_tried_again(world: World) -> None:
    pod = await world.admit("db", 4)
    build = world.driver.build

    async def refused(start: seams.Start, *, on_progress: Progress, **_: bool) -> None:
        raise OSError(errno.EAGAIN, "fork: no more processes")

    world.driver.build = refused
    with pytest.raises(seams.StartRefused, match="no more processes; retrying"):
        await world.service.pre_start([pod.ticket])
    world.driver.build = build
    assert await world.start_container(pod)


async def test_a_start_that_waits_for_the_agent_is_answered_within_kubelets_patience(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await world.admit("db", 40)
    monkeypatch.setattr(world.reconciler, "reconcile", asyncio.Event().wait)
    starting = asyncio.create_task(world.service.pre_start([pod.ticket]))
    await world.clock.until(starting.done, step_s=1)
    assert world.clock.monotonic() < KUBELETS_PATIENCE_S
    with pytest.raises(seams.StartRefused, match="busy with its pools"):
        await starting


async def test_a_start_that_takes_long_says_how_far_it_is_within_kubelets_patience(
    world: World,
) -> None:
    pod = await world.admit("db", 4)
    gate = asyncio.Event()
    build = world.driver.build

    async def slow(start: seams.Start, *, on_progress: Progress, **_: bool) -> object:
        on_progress(3 * node.PAGE)
        await gate.wait()
        return await build(start, on_progress=on_progress)

    world.driver.build = slow
    starting = asyncio.create_task(world.service.pre_start([pod.ticket]))
    await world.clock.until(starting.done, step_s=1)
    assert world.clock.monotonic() < KUBELETS_PATIENCE_S
    with pytest.raises(seams.StartRefused, match=r"^som: warming 6Mi of 8Mi, retrying, no action"):
        await starting
    gate.set()
    assert await world.start_container(pod)


@pytest.mark.parametrize(
    ("pages", "file_pages", "is_kept"),
    [(4, 4, True), (1, 4, False), (0, 0, False), (4, 1 << 19, True)],
    ids=["whole", "punched", "truncated", "made longer"],
)
async def test_a_warm_restart_gives_back_what_still_has_all_its_pages(
    world: World, pages: int, file_pages: int, is_kept: bool
) -> None:
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    first = pod.memory
    world.driver.look = lambda starts: seams.Seen(
        attached={first.start.built: file_pages * node.PAGE},
        resisting=frozenset(),
        usage={start.built: seams.Usage(pages * node.PAGE, pages * node.PAGE) for start in starts},
    )
    await world.service.pre_start([pod.ticket])
    assert first.truncated is not is_kept


async def test_what_is_done_to_a_start_is_recorded_before_it_is_done(world: World) -> None:
    """An agent that dies in between finds in the store what it has to finish."""
    seen: list[tuple[str, state.State | None]] = []

    def state_of(start: seams.Start) -> state.State | None:
        record = world.starts.record((start.lease_id, start.number))
        return record.state if record else None

    build, revoke = world.driver.build, world.driver.revoke

    async def seen_building(start: seams.Start, *, on_progress: Progress, **_: bool) -> object:
        seen.append(("build", state_of(start)))
        return await build(start, on_progress=on_progress)

    def seen_revoking(start: seams.Start) -> None:
        seen.append(("revoke", state_of(start)))
        revoke(start)

    world.driver.build, world.driver.revoke = seen_building, seen_revoking
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    assert state_of(pod.memory.start) is state.State.DELIVERED
    await world.start_container(pod)
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    building = ("build", state.State.BUILDING)
    revoking = ("revoke", state.State.RELEASING)
    assert seen == [building, revoking, building, revoking]


async def test_kubelet_is_not_offered_a_ticket_whose_lease_holds_memory(world: World) -> None:
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    offered = world.service.preferred(available=TICKETS, must_include=[], size=len(TICKETS))
    assert pod.ticket not in offered
    world.cluster.running.clear()
    pod.memory.pinned_bytes = node.PAGE
    await world.reconciler.reconcile()
    offered = world.service.preferred(available=TICKETS, must_include=[], size=len(TICKETS))
    assert pod.ticket not in offered, "its memory is held, though its pod is gone"


async def test_the_ticket_that_was_used_last_is_offered_last(world: World) -> None:
    for ticket in (TICKETS[1], TICKETS[0]):
        await world.service.allocate([ticket])
    offered = world.service.preferred(available=TICKETS, must_include=[], size=len(TICKETS))
    assert offered[-2:] == [TICKETS[1], TICKETS[0]]

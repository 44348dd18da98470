"""What a pod leaves for its successor: who gets it, who does not, and what it yields to."""

import asyncio
import contextlib
import dataclasses

import pytest

from fakes import node
from som_api import v1alpha1
from som_device_plugin import seams, status, telling
from som_device_plugin.leases import decide, state
from unit.leases.worlds import CAPACITY, Killed, World

KEEP_S = 3600.0
PAGES = CAPACITY // node.PAGE


async def left(world: World, *, count: int = 4, name: str = "cache-0") -> node.FakePod:
    """A pod of so many pages that ran and has gone; the agent does not know that yet."""
    world.pools.warm = []
    pod = await world.admit(name, count, keep_s=KEEP_S)
    assert await world.start_container(pod)
    world.cluster.running.remove(pod)
    return pod


async def kept(world: World, *, count: int = 4) -> node.FakePod:
    """A pod that has gone, whose memory the agent keeps."""
    pod = await left(world, count=count)
    await world.reconciler.reconcile()
    assert states(world) == [state.State.KEPT]
    return pod


async def time_passes(world: World) -> None:
    """Until nothing that pods left is kept any more."""
    world.pools.warm = []
    await world.reconciler.reconcile()
    await world.clock.advance(KEEP_S)
    for _ in range(2):
        await world.keeper.keep()
        await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0
    assert world.records.leases() == []
    assert not world.kernel.paths


def states(world: World) -> list[state.State]:
    return [record.state for lease in world.records.leases() for record in lease.starts]


async def started(world: World, count: int = 4, **like: object) -> tuple[node.FakePod, str]:
    """The next pod, started, and its SOM_CONTENT."""
    named: dict[str, object] = {"name": "cache-0", "keep_s": KEEP_S, **like}
    pod = await world.admit(count=count, **named)  # type: ignore[arg-type]
    assert await world.start_container(pod)
    return pod, world.content_of(pod.memory)


@pytest.mark.parametrize("is_noticed", [False, True])
async def test_the_successor_finds_what_the_pod_left(world: World, is_noticed: bool) -> None:
    pod = await (kept if is_noticed else left)(world)
    heir, content = await started(world)
    assert (heir.memory, content) == (pod.memory, "kept")


async def test_kubelet_may_give_the_successor_the_same_ticket(world: World) -> None:
    pod = await left(world)
    heir, content = await started(world, ticket=pod.ticket)
    assert (heir.memory, content) == (pod.memory, "kept")


async def test_what_is_kept_is_nobodys_and_free(world: World) -> None:
    await kept(world)
    leases, pool = world.records.leases(), world.pools.for_unit("2Mi")
    assert status.allocated_bytes(pool.name, leases) == 0
    assert status.free_bytes(pool, leases) == CAPACITY
    assert telling.report(leases).leases == ()


async def test_successors_follow_each_other_and_their_restarts(world: World) -> None:
    first = await left(world)
    for _ in range(3):
        heir, content = await started(world)
        assert (heir.memory, content) == (first.memory, "kept")
        assert await world.start_container(heir)
        assert heir.memory is first.memory
        world.cluster.running.remove(heir)
    await time_passes(world)


async def test_no_path_is_left_of_a_lease_whose_successor_has_memory_from_elsewhere(
    world: World,
) -> None:
    pod = await world.admit("cache-0", 4, keep_s=KEEP_S)
    assert await world.start_container(pod)
    pod.memory.lost_bytes = node.PAGE
    assert await world.start_container(pod)
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    heir, _ = await started(world)
    assert heir.memory is pod.memory
    world.cluster.running.clear()
    heir, _ = await started(world)
    await world.reconciler.reconcile()
    assert world.kernel.paths == {pod.memory.start.built[0]}


@pytest.mark.parametrize(
    "like",
    [
        {"name": "cache-1"},
        {"lineage": "another"},
        {"lineage": ""},
        {"count": 3},
        {"keep_s": 0.0},
        {"keep_s": 0.0, "keep": True},
    ],
    ids=str,
)
async def test_whoever_is_no_successor_finds_zeroes(world: World, like: dict[str, object]) -> None:
    pod = await kept(world)
    other, content = await started(world, **like)  # type: ignore[arg-type]
    assert other.memory is not pod.memory
    assert (other.memory.start.built_as, content) == ("", "fresh")


def test_another_namespace_container_or_life_of_the_lease_makes_no_successor() -> None:
    owner = seams.Owner("shop", "cache-0", "main", seams.PodUid("old"))
    start = seams.Start(seams.LeaseId("a"), 1, "pool", 0, 8 << 20, 2 << 20, "Fake")
    gone = state.Lease(
        *(seams.LeaseId("a"), seams.Ticket(""), 1, owner),
        request=seams.ContainerRequest("main", "2Mi", 4),
        last_number=1,
        starts=(state.StartRecord(start, state.State.KEPT, "boot", used=True),),
        keep_s=60.0,
        lineage="set",
        kept_until_s=9.0,
    )

    def heir(names: tuple[str, str, str]) -> state.Lease:
        new = seams.Owner(*names, seams.PodUid("new"))
        return dataclasses.replace(
            gone,
            ticket=seams.Ticket("n0-1"),
            owner=new,
            last_number=0,
            starts=(),
            kept_until_s=None,
        )

    rightful = heir(owner.names)
    assert decide.is_successor(rightful, gone)
    assert not decide.is_successor(heir(("other", "cache-0", "main")), gone)
    assert not decide.is_successor(heir(("shop", "cache-1", "main")), gone)
    assert not decide.is_successor(heir(("shop", "cache-0", "sidecar")), gone)
    assert not decide.is_successor(dataclasses.replace(rightful, last_number=1), gone)
    assert not decide.is_successor(rightful, dataclasses.replace(gone, ended=True))


async def test_a_successor_that_comes_too_late_finds_zeroes(world: World) -> None:
    pod = await kept(world)
    await world.clock.advance(KEEP_S)
    heir, content = await started(world)
    assert (heir.memory is pod.memory, content) == (False, "fresh")


async def test_the_memory_is_free_when_the_time_is_over(world: World) -> None:
    await kept(world)
    running = asyncio.create_task(world.keeper.run())
    await world.clock.advance(KEEP_S / 2)
    assert states(world) == [state.State.KEPT]
    await world.clock.advance(KEEP_S / 2)
    assert state.State.KEPT not in states(world)
    running.cancel()
    await asyncio.wait([running])


async def test_what_is_kept_is_free_for_any_start_that_needs_its_pages(world: World) -> None:
    pod = await kept(world, count=PAGES // 2)
    small, _ = await started(world, name="small", count=PAGES // 2)
    assert pod.memory.mounted, "there was other memory"
    world.cluster.running.remove(small)
    large, content = await started(world, name="large", count=PAGES)
    assert (large.memory.start.size_bytes, content) == (CAPACITY, "fresh")
    assert not pod.memory.mounted


async def test_spares_yield_before_what_is_kept(world: World) -> None:
    pod = await kept(world)
    world.pools.warm = [v1alpha1.Warm(size=4 * node.PAGE, count=2)]
    for _ in range(2):
        await world.keep_spares()
    assert len(world.spares()) == 2
    await started(world, name="large", count=PAGES - 4)
    assert (world.spares(), pod.memory.mounted) == ([], True)


async def test_a_pool_that_is_to_shrink_keeps_nothing(world: World) -> None:
    await kept(world)
    world.pools.shrinking = True
    await world.keeper.keep()
    assert world.kernel.used_bytes() == 0


async def test_a_reboot_leaves_nothing_to_a_successor(world: World) -> None:
    await kept(world)
    world.kernel.superblocks.clear()
    world.boot_id = "boot-2"
    await world.crash()
    assert world.records.leases() == []
    assert (await started(world))[1] == "fresh"


@pytest.mark.parametrize("is_noticed", [False, True])
async def test_pages_that_were_cut_off_leave_nothing(world: World, is_noticed: bool) -> None:
    pod = await (kept if is_noticed else left)(world)
    pod.memory.lost_bytes = node.PAGE
    assert (await started(world))[1] == "fresh"


async def test_a_container_that_still_runs_leaves_nothing(world: World) -> None:
    """Its pod was deleted by force. Whoever comes meanwhile does not wait, and is no heir later."""
    pod = await left(world)
    pod.known_to_api = False
    world.cluster.running.append(pod)
    _, content = await started(world)
    assert content == "fresh"
    world.cluster.running.remove(pod)
    await world.reconciler.reconcile()
    assert (pod.memory.mounted, states(world)) == (False, [state.State.DELIVERED])


async def test_nothing_is_kept_beside_a_successor_with_other_memory(world: World) -> None:
    pod = await kept(world)
    await started(world, count=3)
    await world.keeper.keep()
    assert not pod.memory.mounted


async def test_a_gone_pods_container_cannot_begin_with_what_is_kept(world: World) -> None:
    await kept(world)
    assert list(world.cdi_dir.iterdir()) == []
    assert world.records.of_ticket(seams.Ticket("n0-0")) == []


async def test_a_quiet_node_asks_kubelet_nothing_about_what_is_kept(world: World) -> None:
    await kept(world)
    assert not world.reconciler._in_doubt()


@pytest.mark.parametrize("calls", range(0, 72, 2))
async def test_an_agent_killed_while_content_changes_hands_gives_it_to_the_successor_or_nobody(
    world: World, calls: int
) -> None:
    pod = await left(world)
    heir = await world.admit("cache-0", 4, keep_s=KEEP_S)
    stranger = await world.admit("other", 4, keep_s=KEEP_S)
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.start_container(heir)
    world.check_specs()
    await world.crash()
    world.check()
    heir.container_runs = False
    assert await world.start_container(stranger)
    assert await world.start_container(heir)
    assert heir.memory is pod.memory
    world.cluster.running.clear()
    await time_passes(world)


@pytest.mark.parametrize("calls", range(0, 32, 2))
async def test_an_agent_killed_while_kept_memory_ends_takes_all_of_it_when_it_is_back(
    world: World, calls: int
) -> None:
    await kept(world)
    await world.clock.advance(KEEP_S)
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.keeper.keep()
    await world.crash()
    await time_passes(world)

"""The lease core through random lives of pods, with crashes of the agent, on a fake node."""

import asyncio
import contextlib
import dataclasses
import random

import hypothesis
import pytest
from hypothesis import strategies

from fakes import node
from som_device_plugin import database
from unit.leases.worlds import TICKETS, Killed, World

STEPS = [
    "admit",
    "start",
    "start",
    "start while reconciling",
    "start cancelled",
    "restart",
    "restart while reconciling",
    "delete",
    "delete by force",
    "container ends",
    "pin",
    "cut off",
    "status arrives",
    "let go",
    "crash",
    "specs lost",
    "killed soon",
    "killed soon",
    "disk full",
    "disk has room",
    "kubelet silent",
    "kubelet answers",
    "source lost",
    "source synced",
    "recreate",
    "spare",
    "spare",
    "spare while starting",
    "ticket given twice",
    "kept ones end",
    "reconcile",
]
SUCCESSIONS = [
    *["admit", "start", "recreate"] * 3,
    *["killed soon", "crash", "reconcile", "cut off", "pin", "kept ones end", "spare"],
]
KEEP_S = 3600.0
KEEPING = [(False, 0.0), (True, 0.0), *[(True, KEEP_S)] * 2]


async def one_step(world: World, step: str, choose: random.Random) -> None:
    pods = world.cluster.running
    pod = choose.choice(pods) if pods else None
    match step:
        case "admit" if len(pods) < len(TICKETS) and world.chosen():
            name, keep, keep_s = choose.choice(world.unused_names()), *choose.choice(KEEPING)
            count = choose.choice([4, choose.randint(1, 16)])
            lineage = choose.choice(["set", "set", "other"])
            await world.admit(name, count, keep=keep, keep_s=keep_s, lineage=lineage)
        case "start" if pod and pod.known_to_api and not pod.container_runs:
            await world.start_container(pod)
        case "start cancelled" if pod and pod.known_to_api and not pod.container_runs:
            starting = asyncio.create_task(world.service.pre_start([pod.ticket]))
            for _ in range(choose.randint(0, 12)):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
        case "start while reconciling" | "restart while reconciling" if (
            pod and pod.known_to_api and pod.container_runs == step.startswith("restart")
        ):
            pod.container_runs = False
            reconciling = asyncio.create_task(world.reconciler.reconcile())
            for _ in range(choose.randint(0, 3)):
                await asyncio.sleep(0)
            await world.start_container(pod)
            await reconciling
        case "restart" if pod and pod.known_to_api and pod.container_runs:
            pod.container_runs = False
            await world.start_container(pod)
        case "delete" if pod:
            pods.remove(pod)
        case "delete by force" if pod:
            pod.known_to_api = False
        case "container ends" if pod and not pod.known_to_api:
            pods.remove(pod)
        case "pin" if pod and pod.delivered:
            pod.memory.pinned_bytes = node.PAGE
        case "cut off" if pod and pod.delivered:
            pod.memory.lost_bytes = node.PAGE
        case "status arrives" if pod and pod.container_runs and pod.known_to_api:
            started_s = float(int(world.clock.now().timestamp()))
            pod.pod = dataclasses.replace(pod.pod, running={"main": started_s})
        case "let go":
            for block in world.kernel.superblocks:
                block.pinned_bytes = 0
        case "crash":
            await world.crash()
        case "specs lost":
            for path in world.cdi_dir.glob("*.json"):
                path.unlink()
        case "killed soon":
            world.calls_left = choose.randint(0, 20)
        case "disk full" | "disk has room":
            world.disk(full=step == "disk full")
        case "kubelet silent" | "kubelet answers":
            world.cluster.kubelet_answers = step == "kubelet answers"
        case "source lost" | "source synced":
            world.cluster.synced = step == "source synced"
        case "recreate" if pod and pod.container_runs:
            pods.remove(pod)
            if world.chosen():
                count = choose.choice([*[pod.pod.containers[0].count] * 4, choose.randint(1, 16)])
                keep_s = choose.choice([pod.pod.keep_on_restart.get("main", 0.0), 0.0, KEEP_S])
                lineage = pod.pod.lineage
                heir = await world.admit(pod.pod.name, count, keep_s=keep_s, lineage=lineage)
                if choose.random() < 0.5:
                    await world.start_container(heir)
        case "kept ones end":
            await world.clock.advance(choose.choice([1.0, KEEP_S]))
            await world.keeper.keep()
        case "spare":
            await world.keep_spares()
        case "spare while starting" if pod and pod.known_to_api and not pod.container_runs:
            keeping = asyncio.create_task(world.keep_spares())
            for _ in range(choose.randint(0, 6)):
                await asyncio.sleep(0)
            await world.start_container(pod)
            await asyncio.wait([keeping])
        case "ticket given twice" if pod and len(pods) < len(TICKETS):
            await world.admit(choose.choice(world.unused_names()), 4, ticket=pod.ticket)
        case _:
            await world.reconciler.reconcile()


async def live(world: World, chosen: list[str], choose: random.Random) -> None:
    for step in chosen:
        with contextlib.suppress(Killed, database.DatabaseError):
            await one_step(world, step, choose)
        if world.killed:
            world.check_specs()
            await world.crash()
        world.check()
    world.calls_left = None
    world.disk(full=False)
    world.cluster.running.clear()
    world.cluster.synced = world.cluster.kubelet_answers = True
    for block in world.kernel.superblocks:
        block.pinned_bytes = 0
    world.pools.shrinking = True
    for _ in range(3):
        await world.keeper.keep()
        await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0, "a page leaked"
    left = [lease for lease in world.store.leases() if lease.owner or lease.starts or lease.ended]
    assert not left, "a lease was left behind"
    assert not world.kernel.paths, "a path was left behind"
    assert not list(world.cdi_dir.iterdir()), "a spec was left behind"


@pytest.mark.parametrize("steps_of", [STEPS, SUCCESSIONS], ids=["everything", "successions"])
@hypothesis.given(data=strategies.data(), seed=strategies.integers(0, 2**32))
def test_no_life_leaks_a_page_or_hands_out_memory_twice(
    tmp_path_factory: pytest.TempPathFactory,
    steps_of: list[str],
    data: strategies.DataObject,
    seed: int,
) -> None:
    steps = data.draw(strategies.lists(strategies.sampled_from(steps_of), min_size=5, max_size=60))
    path = tmp_path_factory.mktemp("life") / "som.db"
    asyncio.run(live(World(path), steps, random.Random(seed)))


@pytest.mark.parametrize("calls", range(4))
async def test_an_agent_killed_while_it_names_a_lease_leaves_no_path_behind(
    world: World, calls: int
) -> None:
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.service.allocate([TICKETS[0]])
    await world.crash()
    assert world.kernel.paths <= {lease.lease_id for lease in world.store.leases()}


@pytest.mark.parametrize("calls", range(24))
async def test_an_agent_killed_while_a_lease_ends_takes_all_of_it_when_it_is_back(
    world: World, calls: int
) -> None:
    await world.start_container(await world.admit("db", 4))
    world.cluster.running.clear()
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.reconciler.reconcile()
    world.check_specs()
    await world.crash()
    await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0
    assert list(world.cdi_dir.iterdir()) == []
    assert world.store.leases() == []


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("calls", range(30))
async def test_an_agent_killed_while_a_container_restarts_leaves_no_spec_of_lost_memory(
    world: World, calls: int, keep: bool
) -> None:
    pod = await world.admit("db", 4, keep=keep)
    await world.start_container(pod)
    pod.container_runs = False
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.start_container(pod)
    world.check_specs()
    await world.crash()
    world.check()
    assert await world.start_container(pod)

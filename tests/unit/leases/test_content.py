"""SOM_CONTENT: what a container is told about its memory before it looks. `fresh` never lies."""

import dataclasses
import json
import pathlib

import pytest

from som_device_plugin import changes, database, seams
from som_device_plugin.leases import store
from unit.leases.test_kernel_life import KernelWorld
from unit.leases.worlds import World


def told(world: World) -> str:
    """What the one spec says."""
    (path,) = world.cdi_dir.glob("*.json")
    edits = json.loads(path.read_text())["devices"][0]["containerEdits"]
    (said,) = [each for each in edits["env"] if each.startswith("SOM_CONTENT=")]
    return str(said.partition("=")[2])


def seen_running(world: World, *, after_s: float) -> None:
    """Kubelet's status of the one pod: its container started so long after now."""
    (pod,) = world.cluster.running
    started_s = float(int(world.clock.now().timestamp() + after_s))
    pod.pod = dataclasses.replace(pod.pod, running={"main": started_s})


async def test_the_first_start_is_fresh_and_a_restart_finds_what_is_kept(world: World) -> None:
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    first = pod.memory
    assert told(world) == "fresh"
    await world.start_container(pod)
    assert (told(world), pod.memory) == ("kept", first)


async def test_a_restart_that_nobody_asked_to_keep_is_fresh(world: World) -> None:
    pod = await world.admit("db", 4)
    for _ in range(2):
        await world.start_container(pod)
        assert told(world) == "fresh"


async def test_a_restart_after_the_container_cut_pages_off_is_fresh(world: World) -> None:
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    await world.start_container(pod)
    pod.memory.lost_bytes = 1
    await world.start_container(pod)
    assert told(world) == "fresh"
    assert pod.memory.start.number == 2


async def test_a_reboot_leaves_nothing_to_keep(world: World) -> None:
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    world.kernel.superblocks.clear()
    world.boot_id = "boot-2"
    pod.container_runs = False
    await world.crash()
    await world.start_container(pod)
    assert told(world) == "fresh"


@pytest.mark.parametrize("lost_bytes", [0, 1])
@pytest.mark.parametrize("keep", [False, True])
async def test_a_container_that_starts_again_without_the_agent_is_told_that_it_finds_content(
    world: World, keep: bool, lost_bytes: int
) -> None:
    """Kubelet may skip PreStartContainer then, and the runtime reads the spec that is there."""
    pod = await world.admit("db", 4, keep=keep)
    await world.start_container(pod)
    pod.memory.lost_bytes = lost_bytes
    await world.reconciler.reconcile()
    assert told(world) == "fresh"
    seen_running(world, after_s=0)
    await world.reconciler.reconcile()
    assert told(world) == "kept"


async def test_a_status_of_the_container_before_says_nothing_of_a_new_start(world: World) -> None:
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    seen_running(world, after_s=0)
    await world.clock.advance(5)
    await world.start_container(pod)
    await world.reconciler.reconcile()
    assert told(world) == "fresh"


async def test_what_an_agent_stored_and_did_not_write_the_next_one_writes(world: World) -> None:
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    world.store.set_used(pod.memory.start)
    await world.crash()
    assert told(world) == "kept"


def test_a_start_that_an_older_agent_delivered_may_have_content(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = database._STEPS
    with monkeypatch.context() as older:
        version = next(number for number, step in enumerate(steps) if "COLUMN used" in step)
        older.setattr(database, "_STEPS", steps[:version])
        connection = database.open_database(tmp_path / "som.db")
        connection.execute(
            "INSERT INTO leases (lease_id, ticket, named_order) VALUES ('a', 't', 1)"
        )
        for number, found in enumerate(("delivered", "ready")):
            connection.execute(
                "INSERT INTO starts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ("a", number, "boot", "pool", number, 4, 2, None, found, None, "Fake"),
            )
        connection.close()
    connection = database.open_database(tmp_path / "som.db")
    (lease,) = store.LeaseStore(connection, changes.Changes()).leases()
    assert [record.used for record in lease.starts] == [True, False]
    connection.close()


async def test_som_ko_keeps_the_device_and_no_content(tmp_path: pathlib.Path) -> None:
    world = KernelWorld(tmp_path / "som.db")
    pod = await world.admit("a", 1, keep=True)
    assert await world.start(pod) is await world.start(pod)
    assert told(world) == "fresh"


async def test_a_spec_that_cannot_be_written_keeps_no_other_from_being_true(world: World) -> None:
    pods = [await world.admit(name, 4) for name in ("a", "b")]
    for pod in pods:
        await world.start_container(pod)
    for path in world.cdi_dir.iterdir():
        path.unlink()
    edits, broken = world.driver.edits, pods[0].memory.start

    def refuse(start: seams.Start) -> seams.ContainerEdits:
        if start == broken:
            raise seams.DriverError("no such lease")
        answer: seams.ContainerEdits = edits(start)
        return answer

    world.driver.edits = refuse
    with pytest.raises(seams.DriverError, match="no such lease"):
        world.starts.tidy_specs()
    assert world.specs.leases() == {pods[1].memory.start.lease_id}

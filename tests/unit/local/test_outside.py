import asyncio
import json
import pathlib

import pytest

from som_api import v1alpha1
from som_device_plugin.linux import cgroups
from som_device_plugin.local import layout, orders, outside, programs, units
from waiting import DEADLINE_S

HIERARCHY = cgroups.Hierarchy(root=pathlib.Path("/nowhere"), version=1, others=())


def share(capacity: str) -> v1alpha1.NodePool:
    pool = v1alpha1.parse_sompool(
        {
            "apiVersion": "som.io/v1alpha1",
            "kind": "SomPool",
            "metadata": {"name": "demo"},
            "spec": {"unit": "2Mi", "capacity": capacity, "source": {"hugeTLB": {}}},
        }
    )
    return v1alpha1.NodePool.of(pool)


async def test_orders_reach_the_agent_at_each_change(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    specs = outside.FileSpecs(state_dir.orders).specs()
    async with asyncio.timeout(DEADLINE_S):
        waiting = asyncio.ensure_future(anext(specs))
        await asyncio.sleep(0)
        assert orders.write(state_dir, [share("64Mi")], HIERARCHY) == 1
        generation, spec = await waiting
        assert (generation, spec.pools[0].capacity) == (1, 64 * 2**20)
        assert orders.write(state_dir, [share("128Mi")], HIERARCHY) == 2
        generation, spec = await anext(specs)
        assert (generation, spec.pools[0].generation) == (2, 2)
        assert orders.write(state_dir, [], HIERARCHY) == 3
        assert await anext(specs) == (3, v1alpha1.SomNodeSpec())


def test_the_same_order_again_is_no_new_one(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    assert orders.write(state_dir, [share("64Mi")], HIERARCHY) == 1
    assert orders.write(state_dir, [share("64Mi")], HIERARCHY) == 1


def test_pods_are_unknown_until_the_file_is_there(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    source = outside.FilePods(state_dir.pods)
    assert not source.synced
    assert source.pods() == ()
    pod = programs.Program("db-1", "u1", units.Request("2Mi", 3), ticket="n0-0")
    programs.write(state_dir, [pod])
    assert source.synced
    found = source.get(namespace="som-local", name="db-1")
    assert found is not None
    assert found.uid == "u1"


def test_a_file_that_vanishes_or_breaks_is_no_information(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    source = outside.FilePods(state_dir.pods)
    programs.write(state_dir, [programs.Program("db-1", "u1", units.Request("2Mi", 3), "n0-0")])
    assert len(source.pods()) == 1
    layout.write_atomically(state_dir.pods, "{")
    assert len(source.pods()) == 1
    state_dir.pods.unlink()
    assert len(source.pods()) == 1
    programs.write(state_dir, [])
    assert source.pods() == ()
    assert source.synced


async def test_a_report_that_says_nothing_new_leaves_the_file(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    reporter = outside.FileReporter(state_dir.status)
    status = v1alpha1.SomNodeStatus(observed_generation=3)
    await reporter.report(status)
    inode = state_dir.status.stat().st_ino
    await reporter.report(status)
    assert state_dir.status.stat().st_ino == inode
    assert orders.read_status(state_dir) == status
    assert json.loads(state_dir.status.read_text())["observedGeneration"] == 3


async def test_a_report_for_which_the_disk_has_no_room_is_written_later(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "not there yet" / "status.json"
    reporter = outside.FileReporter(path)
    status = v1alpha1.SomNodeStatus(observed_generation=3)
    await reporter.report(status)
    path.parent.mkdir()
    await reporter.report(status)
    assert json.loads(path.read_text())["observedGeneration"] == 3


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "status.json"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        layout.write_atomically(path, "{}")
    assert list(tmp_path.iterdir()) == [path]

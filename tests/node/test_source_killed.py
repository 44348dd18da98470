"""SIGKILL at any step: what was taken is found again, or was freed by the kernel."""

import asyncio
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator
from typing import Literal

import pytest

from node import machine, nodes, strace
from node.nodes import PAGE
from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import hold, worker
from som_device_plugin.linux import cgroups, hugepages, mountinfo

When = Literal["before", "after"]
GROWN = 544 * PAGE  # More than one step of 1 GiB.
COUNTER = pathlib.Path("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")


@dataclasses.dataclass(frozen=True)
class Others:
    """Pages that are others', there before som and after it, and those of them not in use."""

    pages: int
    available: int


@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("fsopen", "before"),
        ("fsmount", "after"),
        ("flock", "after"),
        ("ftruncate", "before"),
        ("ftruncate", "after"),
        ("madvise", "before"),
        ("madvise", "after"),
        ("move_mount", "before"),
        ("move_mount", "after"),
    ],
)
async def test_a_worker_killed_anywhere_leaves_nothing(
    call: str, when: When, node: nodes.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.apply(160 * PAGE)
    start = node.start(128 * PAGE)  # Two chunks.
    command = worker.command
    with monkeypatch.context() as patch:
        patch.setattr(worker, "command", lambda *a: [*strace.killing(call, when), *command(*a)])
        with pytest.raises(seams.DriverError, match="ended with status -"):
            await node.driver.build(start, on_progress=lambda _bytes: None)

    node.restart()
    node.driver.end_builders()
    machine.wait_until(lambda: node.driver.usage(start).free, what="the start is free")
    assert node.driver.look([]).attached == {}
    assert (await node.source.refill("databases")).free_bytes == 160 * PAGE
    await node.driver.build(start, on_progress=lambda _bytes: None)
    assert node.read(start) == b"\0"


async def test_a_worker_started_ahead_takes_nothing_once_its_agent_is_gone(
    node: nodes.Node,
) -> None:
    await node.apply(8 * PAGE)
    start = node.start(4 * PAGE)
    orphan = await asyncio.create_subprocess_exec(*worker.command("build"), stdin=subprocess.PIPE)
    await orphan.communicate(json.dumps(orders(node, start)).encode() + b"\n")
    assert orphan.returncode == 0
    assert node.driver.look([]).attached == {}
    assert (await node.source.reserved("databases")).free_bytes == 8 * PAGE


async def test_a_worker_whose_agent_is_killed_midway_attaches_nothing(node: nodes.Node) -> None:
    await node.apply(1024 * PAGE)
    start = node.start(1024 * PAGE)  # More chunks than a worker has threads.
    told, telling = os.pipe()
    os.close(told)
    orphan = await asyncio.create_subprocess_exec(
        *worker.command("build"), stdin=subprocess.PIPE, stdout=telling, stderr=subprocess.DEVNULL
    )
    os.close(telling)
    assert orphan.stdin
    orphan.stdin.write(json.dumps(orders(node, start)).encode() + b"\n")
    assert await orphan.wait() == 1
    assert node.driver.look([]).attached == {}, "a part of it would look like all of it"
    machine.wait_until(lambda: node.driver.usage(start).free, what="the start is free")


async def test_a_worker_that_the_system_kills_takes_its_child_along(node: nodes.Node) -> None:
    await node.apply(512 * PAGE)
    start = node.start(512 * PAGE)

    def kill_workers(_bytes: int) -> None:
        for children in pathlib.Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(seams.DriverError, match="ended with status -9"):
        await node.driver.build(start, on_progress=kill_workers)
    machine.wait_until(lambda: node.driver.usage(start).free, what="the start is free")
    assert node.driver.look([]).attached == {}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("call", "nth", "where"),
    [
        ("fdatasync", 2, "som.db-wal"),
        ("fdatasync", 3, "som.db-wal"),
        ("fdatasync", 4, "som.db-wal"),
        ("move_mount", 1, ""),
        ("write", 1, "counter"),
        ("write", 2, "counter"),
        ("flock", 2, "holds/databases/hold"),
        ("flock", 3, "holds/databases/hold"),
    ],
)
async def test_a_growth_killed_anywhere_counts_every_page_once(
    call: str, nth: int, where: str, when: When, node: nodes.Node, others: Others
) -> None:
    path = COUNTER if where == "counter" else node.state_dir / where if where else None
    status = strace.source(
        strace.killing(call, when, nth=nth, path=path), node.state_dir, "apply", str(GROWN)
    )
    assert status < 0, "it was killed"

    await everything_is_found(node, others)
    assert (await node.apply(GROWN)).capacity_bytes == GROWN
    assert hugepages.node_counts(PAGE, 0).persistent == others.pages + GROWN // PAGE
    await node.source.release("databases")
    assert hugepages.node_counts(PAGE, 0).persistent == others.pages


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("call", "where"), [("ftruncate", "holds/databases/hold"), ("write", "counter")]
)
async def test_a_shrinkage_killed_anywhere_loses_no_page_and_no_lease(
    call: str, where: str, when: When, node: nodes.Node, others: Others
) -> None:
    await node.apply(96 * PAGE)
    start = await node.built(8 * PAGE)
    node.fill(start, b"x")
    path = COUNTER if where == "counter" else node.state_dir / where
    status = strace.source(
        strace.killing(call, when, path=path), node.state_dir, "apply", str(16 * PAGE)
    )
    assert status < 0, "it was killed"

    await everything_is_found(node, others)
    assert node.read(start) == b"x"
    assert (await node.apply(16 * PAGE)).free_bytes == 8 * PAGE
    assert hugepages.node_counts(PAGE, 0).persistent == others.pages + 16
    node.driver.revoke(start)
    await node.source.release("databases")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("call", "where"), [("ftruncate", ""), ("write", "counter"), ("umount2", ""), ("rmdir", "")]
)
async def test_a_pools_end_killed_anywhere_is_finished_by_the_next_agent(
    call: str, where: str, when: When, node: nodes.Node, others: Others
) -> None:
    await node.apply(16 * PAGE)
    path = COUNTER if where else None
    status = strace.source(strace.killing(call, when, path=path), node.state_dir, "release")
    assert status < 0, "it was killed"

    node.restart()
    await node.source.release("databases")
    assert hugepages.node_counts(PAGE, 0).persistent == others.pages


def orders(node: nodes.Node, start: seams.Start) -> list[str]:
    """What a worker reads that builds `start`, whose directory and group are made."""
    (directory := node.file(start).parent).mkdir(parents=True)
    hierarchy = cgroups.find(mountinfo.read())
    group = hierarchy.pool(node.state_dir, start.pool) / str(start.slot)
    hierarchy.create(group)
    return [
        str(hold.file_path(node.state_dir, start.pool)),
        str(start.size_bytes),
        str(PAGE),
        str(directory),
        start.mount_source,
        "-1",
        str(group),
        "0",
    ]


async def everything_is_found(node: nodes.Node, others: Others) -> None:
    """Each page is somebody's, and the hold keeps all of ours that no lease has."""
    node.restart()
    events, reserved = await node.source.check()
    assert {event.reason for event in events} <= {"HugePagesCounted"}, "its own are nobody's else"
    ours = sum(pool.capacity_bytes for pool in reserved) // PAGE
    assert hugepages.node_counts(PAGE, 0).persistent == others.pages + ours
    assert hugepages.machine_counts(PAGE).available == others.available, "all of ours are reserved"


@pytest.fixture
def others() -> Iterator[Others]:
    """Six huge pages that the node's own programs could use, beside what it has anyway."""
    before = hugepages.node_counts(PAGE, 0).persistent
    hugepages.write_persistent(PAGE, 0, before + 6)
    yield Others(pages=before + 6, available=hugepages.machine_counts(PAGE).available)
    hugepages.write_persistent(PAGE, 0, before)

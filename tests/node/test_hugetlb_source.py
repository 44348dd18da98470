"""Pools of huge pages beside others who have huge pages, take them, and rewrite the counters."""

import asyncio
import contextlib
import fcntl
import mmap
import os
import pathlib
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from node import machine, nodes
from node.nodes import GIB, PAGE
from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import hold
from som_device_plugin.linux import cgroups, flocks, hugepages, mountinfo, mounts
from som_device_plugin.sources import turn
from som_device_plugin.sources.hugetlb import counters, plan

MAP_HUGETLB = 0x40000
MAP_POPULATE = 0x8000
OVERCOMMIT = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages")
ANONYMOUS = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS


def persistent() -> int:
    return hugepages.node_counts(PAGE, 0).persistent


@pytest.fixture
def foreign() -> Iterator[int]:
    """Five huge pages that the node's own programs use."""
    before = persistent()
    hugepages.write_persistent(PAGE, 0, before + 5)
    yield before + 5
    hugepages.write_persistent(PAGE, 0, before)


async def test_a_pool_comes_on_top_of_what_others_have(foreign: int, node: nodes.Node) -> None:
    available = hugepages.machine_counts(PAGE).available
    reserved = await node.apply(64 * PAGE)

    size = 64 * PAGE
    assert reserved == seams.PoolReserved("databases", size, size, {0: size}, "", PAGE)
    assert persistent() == foreign + 64
    assert hugepages.machine_counts(PAGE).available == available
    with pytest.raises(OSError, match="Cannot allocate memory"):
        mmap.mmap(-1, (available + 1) * PAGE, flags=ANONYMOUS | MAP_HUGETLB)
    await node.source.release("databases")
    assert persistent() == foreign


async def test_two_pools_have_a_hold_each(foreign: int, node: nodes.Node) -> None:
    await node.apply(16 * PAGE, pool="a")
    await node.apply(8 * PAGE, pool="b")
    start = await node.built(16 * PAGE, pool="a")

    assert (await node.source.reserved("a")).free_bytes == 0
    assert (await node.source.reserved("b")).free_bytes == 8 * PAGE
    with pytest.raises(turn.SourceError, match="32Mi are held by containers"):
        await node.source.release("a")
    await node.source.release("b")
    assert persistent() == foreign + 16
    node.driver.revoke(start)


async def test_a_new_agent_counts_nothing_twice(foreign: int, node: nodes.Node) -> None:
    await node.apply(16 * PAGE)
    await node.built(8 * PAGE)

    node.restart()

    assert (await node.source.reserved("databases")).free_bytes == 8 * PAGE
    assert (await node.apply(16 * PAGE)).capacity_bytes == 16 * PAGE
    assert persistent() == foreign + 16


async def test_an_agent_that_lost_its_store_takes_its_own_pages_for_its_own(
    foreign: int, node: nodes.Node
) -> None:
    await node.apply(16 * PAGE, pool="a")
    await node.apply(4 * PAGE, pool="b")
    start = await node.built(8 * PAGE, pool="a")

    for file in node.state_dir.glob("som.db*"):
        file.unlink()
    node.restart()

    reserved = await node.apply(16 * PAGE, pool="a")
    assert (reserved.capacity_bytes, reserved.free_bytes) == (16 * PAGE, 8 * PAGE)
    assert (await node.apply(4 * PAGE, pool="b")).free_bytes == 4 * PAGE
    assert persistent() == foreign + 20
    mounts.detach(str(node.file(start).parent))
    assert (await node.source.refill("a")).free_bytes == 16 * PAGE
    assert persistent() == foreign + 20


async def test_an_agent_that_died_before_it_made_the_file_of_a_hold_is_followed_by_another(
    node: nodes.Node,
) -> None:
    await node.apply(8 * PAGE)
    hold.file_path(node.state_dir, "databases").unlink()

    node.restart()

    assert (await node.source.reserved("databases")).free_bytes == 0
    assert (await node.apply(8 * PAGE)).free_bytes == 8 * PAGE


async def test_nobody_waits_while_the_kernel_moves_memory_together(
    node: nodes.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    compacting, done = threading.Event(), threading.Event()

    def compact(_node: int) -> None:
        compacting.set()
        done.wait()

    change = counters.Counters.change

    def change_half(
        own: counters.Counters, pool: str, page_bytes: int, node: int, pages: int
    ) -> int:
        return change(own, pool, page_bytes, node, max(pages // 2, 1))

    monkeypatch.setattr(hugepages, "compact", compact)
    monkeypatch.setattr(counters.Counters, "change", change_half)
    applying = asyncio.create_task(node.apply(4 * PAGE))
    try:
        await asyncio.to_thread(compacting.wait, 60)
        async with asyncio.timeout(60):
            assert (await node.source.refill("databases")).free_bytes == 2 * PAGE
    finally:
        done.set()
        assert (await applying).free_bytes == 4 * PAGE


async def test_shrinking_takes_from_the_hold_and_never_what_is_held_or_promised(
    node: nodes.Node,
) -> None:
    await node.apply(64 * PAGE)
    start = await node.built(8 * PAGE)
    node.fill(start, b"x")

    assert (await node.apply(4 * PAGE, held_bytes=20 * PAGE)).capacity_bytes == 20 * PAGE
    reserved = await node.apply(4 * PAGE)
    assert (reserved.capacity_bytes, reserved.free_bytes) == (8 * PAGE, 0)
    assert node.read(start) == b"x"
    node.driver.revoke(start)
    await node.source.refill("databases")
    assert (await node.apply(4 * PAGE)).capacity_bytes == 4 * PAGE


@pytest.mark.parametrize("wish", [0, 3, 40])
async def test_a_rewritten_counter_is_repaired_and_reported(
    wish: int, foreign: int, node: nodes.Node
) -> None:
    await node.apply(64 * PAGE)
    start = await node.built(16 * PAGE)
    node.fill(start, b"x")

    pathlib.Path("/proc/sys/vm/nr_hugepages").write_text(str(wish))
    events, [reserved] = await node.source.check()

    assert [(event.reason, event.warning) for event in events] == [("HugePagesRewritten", True)]
    assert reserved.capacity_bytes == 64 * PAGE
    assert reserved.shortfall == ""
    counts = hugepages.node_counts(PAGE, 0)
    theirs = min(wish, foreign)
    assert (counts.total, counts.surplus) == (theirs + 64, 0)
    assert node.read(start) == b"x"
    assert (await node.source.check())[0] == []
    node.driver.revoke(start)
    await node.source.release("databases")
    assert persistent() == theirs


async def test_pages_that_others_add_stay_theirs(foreign: int, node: nodes.Node) -> None:
    await node.apply(16 * PAGE)
    hugepages.write_persistent(PAGE, 0, foreign + 16 + 7)

    assert (await node.source.check())[0] == []
    await node.apply(32 * PAGE)
    assert persistent() == foreign + 7 + 32
    await node.source.release("databases")
    assert persistent() == foreign + 7


@pytest.mark.parametrize("pages", [7, 16])
async def test_pages_that_others_add_and_take_away_again_leave_the_pool_alone(
    pages: int, foreign: int, node: nodes.Node
) -> None:
    await node.apply(16 * PAGE)
    for total in (foreign + 16 + pages, foreign + 16):
        hugepages.write_persistent(PAGE, 0, total)
        assert (await node.source.check())[0] == []
        assert persistent() == total
    await node.source.release("databases")
    assert persistent() == foreign


async def test_pages_taken_by_a_stranger_are_missed_and_come_back(node: nodes.Node) -> None:
    await node.apply(16 * PAGE)
    start = await node.built(16 * PAGE)
    node.driver.revoke(start)
    # Between the release and the refill of the hold anybody can reserve.
    available = hugepages.machine_counts(PAGE).available
    stranger = mmap.mmap(-1, (available - 12) * PAGE, flags=ANONYMOUS | MAP_HUGETLB)

    reserved = await node.source.refill("databases")
    assert reserved.free_bytes == 12 * PAGE
    assert reserved.shortfall == (
        "24Mi of 32Mi: the rest is in use or reserved by other processes of the node"
    )
    stranger.close()
    assert (await node.source.refill("databases")).free_bytes == 16 * PAGE


async def test_a_pool_beyond_the_guard_is_refused_before_anything_is_taken(
    own_machine: machine.Snapshot, node: nodes.Node
) -> None:
    node = nodes.Node(node.state_dir, guard=plan.Guard(percent=25))
    stays = plan.human_bytes(hugepages.memory().total_bytes // 4)
    with pytest.raises(turn.SourceError, match="the largest capacity now is") as refused:
        await node.apply(4096 * GIB)

    assert f"of which {stays} stays for everybody else (--guard-percent 25)" in str(refused.value)

    assert own_machine.difference() == ""
    assert (await node.source.refill("databases")).capacity_bytes == 0


async def test_growing_stops_at_the_guard_and_says_so(
    state_dir: pathlib.Path, own_machine: machine.Snapshot
) -> None:
    keep = hugepages.memory().available_bytes - 7 * GIB // 2
    node = nodes.Node(state_dir, guard=plan.Guard(percent=0, minimum_bytes=keep))
    eaten: list[mmap.mmap] = []

    def on_progress(_reserved: seams.PoolReserved) -> None:
        # Other programs of the node grow at the same time.
        while hugepages.memory().available_bytes - keep > GIB // 2:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE
            eaten.append(mmap.mmap(-1, GIB // 8, flags=flags))

    reserved = await node.source.apply(
        nodes.node_pool(2 * GIB, pool="databases", page="2Mi"),
        held_bytes=0,
        on_progress=on_progress,
    )
    for memory in eaten:
        memory.close()

    assert GIB <= reserved.capacity_bytes < 2 * GIB
    assert reserved.shortfall.endswith(
        "Gi of 2Gi: more would leave too little memory for the rest of the node"
    )
    await node.give_back()


async def test_a_kernel_that_finds_no_more_pages_is_reported_precisely(
    foreign: int, node: nodes.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real fragmentation cannot be ordered: here the kernel is asked for less than we believe."""
    write = hugepages.write_persistent
    with monkeypatch.context() as patch:
        patch.setattr(
            hugepages,
            "write_persistent",
            lambda size, number, pages: write(size, number, min(pages, foreign + 48)),
        )
        reserved = await node.apply(64 * PAGE)

    assert reserved.shortfall == "96Mi of 128Mi: no contiguous memory on NUMA node 0"
    assert (reserved.capacity_bytes, reserved.free_bytes) == (48 * PAGE, 48 * PAGE)
    assert (await node.apply(64 * PAGE)).shortfall == ""


async def test_overcommit_is_refused_and_reported_once(node: nodes.Node) -> None:
    await node.apply(4 * PAGE)
    OVERCOMMIT.write_text("3")
    try:
        with pytest.raises(turn.SourceError, match="set vm"):
            await node.apply(8 * PAGE)
        assert [event.reason for event in (await node.source.check())[0]] == ["HugePagesOvercommit"]
        assert (await node.source.check())[0] == []
    finally:
        OVERCOMMIT.write_text("0")


async def test_the_page_size_of_a_pool_cannot_change(node: nodes.Node) -> None:
    await node.apply(4 * PAGE)
    with pytest.raises(turn.SourceError, match="page size cannot change"):
        await node.apply(GIB, page="1Gi")


async def test_a_lost_hold_is_made_again(node: nodes.Node) -> None:
    await node.apply(4 * PAGE)
    hold = node.state_dir / "holds" / "databases"
    mounts.detach(str(hold))

    _, [reserved] = await node.source.check()
    assert reserved.free_bytes == 4 * PAGE


async def test_one_page_of_one_gib(node: nodes.Node) -> None:
    reserved = await node.apply(GIB, page="1Gi")
    if not reserved.capacity_bytes:
        assert reserved.shortfall == "0Mi of 1Gi: no contiguous memory on NUMA node 0"
        return
    start = await node.built(GIB, page_bytes=GIB)
    assert node.driver.usage(start).current_bytes == GIB
    assert node.read(start) == b"\0"
    mount = next(m for m in mountinfo.read() if m.source == start.mount_source)
    assert "pagesize=1024M" in mount.super_options


@contextlib.asynccontextmanager
async def locking(
    path: pathlib.Path, *, before: str = "true", user: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that keeps `path` locked, having done `before`."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"{before}; exec flock -F {path} sh -c 'echo locked; exec sleep 600'"),
        stdout=subprocess.PIPE,
        user=user,
    )
    assert process.stdout
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"locked\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("first", [0, 1])
async def test_pools_of_two_state_directories_leave_nothing_whoever_goes_first(
    first: int, foreign: int, node: nodes.Node, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "other").mkdir()
    both = [node, nodes.Node(tmp_path / "other")]
    for each in both:
        await each.apply(16 * PAGE)
    assert persistent() == foreign + 32

    for gone, left in ((both[first], foreign + 16), (both[1 - first], foreign)):
        await gone.source.release("databases")
        for each in both:
            assert (await each.source.check())[0] == []
        assert persistent() == left
    await both[1].give_back()


async def test_nobody_without_privileges_can_keep_the_agent_from_its_counters(
    node: nodes.Node,
) -> None:
    await node.apply(4 * PAGE)
    root = cgroups.find(mountinfo.read()).root
    for path in (pathlib.Path("/sys/fs/cgroup"), root):
        async with locking(path, user=65534):
            assert (await node.source.refill("databases")).free_bytes == 4 * PAGE
    nobody = await asyncio.create_subprocess_exec(
        *("flock", "--nonblock", root / "som.lock", "true"), stderr=subprocess.PIPE, user=65534
    )
    assert b"Permission denied" in (await nobody.communicate())[1]


async def test_who_keeps_a_hold_locked_is_named_and_not_waited_for(
    node: nodes.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.apply(4 * PAGE)
    monkeypatch.setattr(hold, "LOCK_TIMEOUT_S", 0.1)
    with hold.file_path(node.state_dir, "databases").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(flocks.LockHeld, match=rf"because pid {os.getpid()} "):
            await node.source.refill("databases")
    assert (await node.source.refill("databases")).free_bytes == 4 * PAGE


async def test_a_worker_that_was_stopped_with_a_hold_locked_ends_before_the_next_agent_looks(
    node: nodes.Node,
) -> None:
    await node.apply(4 * PAGE)
    hierarchy = cgroups.find(mountinfo.read())
    group = hierarchy.pool(node.state_dir, "databases") / "hold"
    file = hold.file_path(node.state_dir, "databases")
    async with locking(file, before=f"echo 0 > {group}/cgroup.procs") as orphan:
        orphan.send_signal(signal.SIGSTOP)
        node.restart()
        await asyncio.to_thread(node.driver.end_builders)
        assert (await node.source.refill("databases")).free_bytes == 4 * PAGE


async def test_a_start_takes_no_pages_while_the_agent_works_on_the_hold(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    with hold.file_path(node.state_dir, "databases").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        building = asyncio.create_task(node.built(4 * PAGE))
        inode = f":{os.fstat(file.fileno()).st_ino} "

        def waits() -> bool:
            lines = pathlib.Path("/proc/locks").read_text().splitlines()
            return any("-> FLOCK" in line and inode in line for line in lines)

        await asyncio.to_thread(machine.wait_until, waits, what="the worker waits", deadline_s=60)
        assert os.fstat(file.fileno()).st_size == 8 * PAGE
    node.driver.revoke(await building)

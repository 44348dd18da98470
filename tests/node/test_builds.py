"""A start of a lease: built in a slot of its own, attached last, given back completely."""

import asyncio
import dataclasses
import mmap
import os
import pathlib
import statistics
import time

import pytest

from node import machine, nodes
from node.nodes import MIB, PAGE
from som_device_plugin import seams
from som_device_plugin.linux import hugepages, mountinfo


async def run(*command: str | pathlib.Path) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


HUGE = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000  # MAP_HUGETLB
BOTH = pytest.mark.parametrize("hierarchy", ["v1", "v2"], indirect=True)


@BOTH
async def test_a_start_has_its_bytes_zeroed_and_gives_them_back(
    hierarchy: object, state_dir: pathlib.Path
) -> None:
    node = nodes.Node(state_dir)
    await node.apply(64 * PAGE)
    start = await node.built(16 * PAGE)

    assert node.driver.usage(start) == seams.Usage(16 * PAGE, 16 * PAGE)
    assert node.driver.look([]).attached == {(start.lease_id, 1): 16 * PAGE}
    assert node.read(start) == b"\0"
    assert (await node.source.reserved("databases")).free_bytes == 48 * PAGE
    node.fill(start, b"x")

    node.driver.revoke(start)
    machine.wait_until(lambda: node.driver.usage(start).free, what="the start is free")
    assert (await node.source.refill("databases")).free_bytes == 64 * PAGE
    again = await node.built(64 * PAGE)
    assert again.slot == start.slot, "an empty slot is used again"
    assert node.read(again) == b"\0"
    await node.give_back()


async def test_a_container_gets_the_starts_file_as_its_device(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)
    (mount,) = node.driver.edits(start).mounts
    status = pathlib.Path(mount.host_path).stat()
    assert (status.st_size, oct(status.st_mode), status.st_uid) == (4 * PAGE, "0o100666", 0)
    assert mount.container_path == "/dev/som"
    assert {"noexec", "nosuid", "nodev", "rw", "bind"} <= set(mount.options)


@pytest.mark.parametrize("named_by", ["this version", "version 0.1"])
async def test_the_lease_s_directory_stays_while_something_is_mounted_there(
    node: nodes.Node, named_by: str
) -> None:
    await node.apply(8 * PAGE)
    start = node.start(4 * PAGE)
    path = node.file(start)
    if named_by == "version 0.1":
        # Kubelet mounts this path for as long as the pod lives; a runtime must not make it.
        path.parent.mkdir(parents=True)
        path.symlink_to("/proc/som/the-lease-is-not-ready")
    await node.driver.build(start, on_progress=lambda _bytes: None)
    with pytest.raises(seams.DriverError, match="still mounted"):
        node.driver.remove_path(start.lease_id)

    node.driver.revoke(start)
    assert not path.exists()
    assert path.is_symlink() == (named_by == "version 0.1")
    node.driver.remove_path(start.lease_id)
    node.driver.remove_path(start.lease_id)
    assert not path.parent.exists()


async def test_revoking_and_building_again_changes_nothing(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)
    node.fill(start, b"x")

    await node.driver.build(start, on_progress=lambda _bytes: None)
    assert node.read(start) == b"x"
    node.driver.revoke(start)
    node.driver.revoke(start)
    assert node.driver.usage(start).free
    assert node.driver.look([]).attached == {}


async def test_a_restarted_container_gets_zeroes_at_the_same_path(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    first = await node.built(4 * PAGE)
    node.fill(first, b"x")

    node.driver.revoke(first)
    second = await node.built(
        4 * PAGE, lease_id=first.lease_id, number=2, others=frozenset({first.slot})
    )

    assert second.slot != first.slot
    assert node.file(second) == node.file(first)
    assert node.read(second) == b"\0"


async def test_a_start_waits_until_its_predecessor_is_taken_away(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    first = await node.built(4 * PAGE)
    second = node.start(4 * PAGE, lease_id=first.lease_id, number=2, others=frozenset({first.slot}))

    with pytest.raises(seams.DriverError, match=r"som:\w+\.1 is still mounted in its place"):
        await node.driver.build(second, on_progress=lambda _bytes: None)
    assert node.driver.usage(second).free
    node.driver.revoke(first)
    await node.driver.build(second, on_progress=lambda _bytes: None)
    node.driver.revoke(first)
    assert node.read(second) == b"\0"


async def test_nothing_is_built_in_a_slot_whose_pages_somebody_holds(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    first = await node.built(4 * PAGE)
    second = dataclasses.replace(first, lease_id=seams.LeaseId("b"))

    with pytest.raises(seams.DriverError, match="8388608 bytes are still held in its slot"):
        await node.driver.build(second, on_progress=lambda _bytes: None)
    assert (await node.source.reserved("databases")).free_bytes == 4 * PAGE
    assert node.driver.look([]).attached == {(first.lease_id, 1): 4 * PAGE}


async def test_a_start_larger_than_the_hold_takes_nothing(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    start = node.start(9 * PAGE)

    with pytest.raises(seams.NotEnoughMemory, match="has 16Mi free of 18Mi"):
        await node.driver.build(start, on_progress=lambda _bytes: None)

    assert node.driver.usage(start).free
    assert node.driver.look([]).attached == {}
    assert (await node.source.reserved("databases")).free_bytes == 8 * PAGE


async def test_a_swap_lost_to_a_stranger_is_told_and_the_hold_recovers(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    # As if strangers got in between: the hold says more than the machine can give.
    available = hugepages.machine_counts(PAGE).available
    strangers = mmap.mmap(-1, available * PAGE, flags=HUGE) if available else None
    os.truncate(node.state_dir / "holds" / "databases" / "hold", 16 * PAGE)
    start = node.start(14 * PAGE)

    with pytest.raises(seams.NotEnoughMemory, match="reserved by another process"):
        await node.driver.build(start, on_progress=lambda _bytes: None)

    assert node.driver.usage(start).free
    assert (await node.source.refill("databases")).free_bytes == 8 * PAGE
    if strangers:
        strangers.close()


async def test_progress_is_told_and_cancelling_frees_everything(node: nodes.Node) -> None:
    await node.apply(512 * PAGE)
    start = node.start(512 * PAGE)
    ready: list[int] = []

    def on_progress(ready_bytes: int) -> None:
        ready.append(ready_bytes)
        # At once: on a busy machine the worker may be done a moment later.
        task.cancel()

    task = asyncio.create_task(node.driver.build(start, on_progress=on_progress))
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ready[0] == 128 * MIB
    machine.wait_until(lambda: node.driver.usage(start).free, what="the start is free")
    assert node.driver.look([]).attached == {}


async def test_a_start_appears_where_the_directory_is_shared(node: nodes.Node) -> None:
    """As in the agent's container, whose state directory is mounted Bidirectional."""
    await run("mount", "--bind", node.state_dir, node.state_dir)
    await run("mount", "--make-shared", node.state_dir)
    await node.apply(8 * PAGE)
    start = node.start(4 * PAGE)
    peer = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "--propagation", "unchanged", "cat", stdin=asyncio.subprocess.PIPE
    )
    other = pathlib.Path(f"/proc/{peer.pid}/mountinfo")
    machine.wait_until(
        lambda: (
            other.parent.joinpath("ns/mnt").readlink()
            != pathlib.Path("/proc/self/ns/mnt").readlink()
        ),
        what="the peer has a mount namespace of its own",
    )

    await node.driver.build(start, on_progress=lambda _bytes: None)
    assert start.mount_source in {mount.source for mount in mountinfo.read(other)}
    node.driver.revoke(start)
    assert start.mount_source not in {mount.source for mount in mountinfo.read(other)}

    assert peer.stdin
    peer.stdin.close()
    await peer.wait()
    await node.give_back()
    await run("umount", "--lazy", node.state_dir)


async def test_a_lease_truncated_by_its_container_shows_it(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)

    os.truncate(node.file(start), PAGE)

    assert node.driver.usage(start).held_bytes == PAGE
    assert node.driver.look([]).attached == {(start.lease_id, 1): PAGE}
    assert (await node.source.refill("databases")).free_bytes == 7 * PAGE


async def test_two_leases_never_share_bytes(node: nodes.Node) -> None:
    await node.apply(8 * PAGE)
    one = await node.built(4 * PAGE)
    two = await node.built(4 * PAGE, others=frozenset({one.slot}))

    node.fill(one, b"1")
    assert node.read(two) == b"\0"
    node.fill(two, b"2")
    assert node.read(one) == b"1"


async def test_a_small_start_is_built_within_the_time_of_a_container_start(
    node: nodes.Node,
) -> None:
    await node.apply(32 * PAGE)
    took_ms = []
    for number in range(1, 101):
        start = node.start(32 * PAGE, lease_id="latency", number=number)
        begun = time.perf_counter()
        await node.driver.build(start, on_progress=lambda _bytes: None)
        took_ms.append((time.perf_counter() - begun) * 1000)
        node.driver.revoke(start)
        await node.source.refill("databases")
        if number >= 15 and min(took_ms) < 200:
            break  # A busy machine has more tries.

    median_ms = statistics.median(took_ms)
    print(f"build of 64 MiB: median {median_ms:.1f} ms, best {min(took_ms):.1f} ms")
    # 30 ms is the promise on a quiet machine; test machines are not. See the benchmarks.
    assert min(took_ms) < 200

"""Who still holds revoked memory: only the kernel knows, and only pins delay the next owner."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest

from node import containers, machine, nodes
from node.conftest import Programs
from node.nodes import PAGE
from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import driver

PINS = ("vmsplice", "io_uring")
OTHERS = ("fd", "map", "romap", "bind", "scm")


@contextlib.asynccontextmanager
async def holding(
    how: str,
    *more: str,
    node: nodes.Node,
    start: seams.Start,
    program: Programs,
    user: int = 1000,
    says: str = "ready",
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A container's process that holds `start` in the way of `how`."""
    async with containers.run(
        *(program("holder"), containers.DEVICE, how, str(start.size_bytes), *more),
        file=node.file(start),
        state_dir=node.state_dir,
        user=user,
    ) as process:
        assert await answer(process) == says
        yield process


async def answer(process: asyncio.subprocess.Process, question: str = "") -> str:
    assert process.stdin and process.stdout
    if question:
        process.stdin.write(f"{question}\n".encode())
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


@pytest.mark.parametrize("how", OTHERS)
async def test_a_holder_without_a_pin_delays_nothing_and_sees_no_new_bytes(
    how: str, node: nodes.Node, program: Programs
) -> None:
    await node.apply(8 * PAGE)
    old = await node.built(8 * PAGE)
    async with holding(how, node=node, start=old, program=program) as holder:
        node.driver.revoke(old)
        machine.wait_until(lambda: node.driver.usage(old).free, what=f"free despite {how}")
        await node.source.refill("databases")
        new = await node.built(8 * PAGE, others=frozenset({old.slot}))
        assert node.read(new) == b"\0"
        node.fill(new, b"n")

        assert await answer(holder, "read") in ("EOF", "SIGBUS")
        assert await answer(holder, "touch") == "SIGBUS"
        assert node.read(new) == b"n"
        assert node.driver.usage(old).free


@pytest.mark.parametrize("how", PINS)
async def test_a_pin_delays_the_offer_until_it_lets_go(
    how: str, node: nodes.Node, program: Programs
) -> None:
    await node.apply(8 * PAGE)
    old = await node.built(8 * PAGE)
    async with holding(how, node=node, start=old, program=program) as holder:
        node.driver.revoke(old)
        machine.wait_until(
            lambda: node.driver.usage(old).held_bytes == PAGE, what=f"only {how} holds"
        )
        assert (await node.source.refill("databases")).free_bytes == 7 * PAGE
        with pytest.raises(seams.NotEnoughMemory):
            await node.built(8 * PAGE, others=frozenset({old.slot}))
        new = await node.built(7 * PAGE, others=frozenset({old.slot}))
        node.fill(new, b"n")
        if how == "vmsplice":
            assert await answer(holder, "read") == str(ord("o")), "its own old byte"
        else:
            assert any(f"pid {holder.pid} " in name for name in node.driver.culprits(old))
        assert not node.driver.usage(old).free
        assert node.driver.free_slot(pool="databases", named=frozenset()) != old.slot

    machine.wait_until(lambda: node.driver.usage(old).free, what="free when the pin let go")


async def test_a_live_holder_is_named(node: nodes.Node, program: Programs) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(8 * PAGE)
    async with holding("map", node=node, start=start, program=program) as holder:
        assert f"pid {holder.pid} (program): mapping" in node.driver.culprits(start)


async def test_a_bystander_with_a_copy_of_all_mounts_delays_nothing(node: nodes.Node) -> None:
    """A pod with `hostPath: /`: releasing by unmounting alone would leak while it lives."""
    await node.apply(8 * PAGE)
    start = await node.built(8 * PAGE)
    async with containers.run(
        "sh",
        "-c",
        "'echo; cat'",
        file=node.file(start),
        state_dir=node.state_dir,
        sees_agent_mounts=True,
    ) as bystander:
        await answer(bystander)
        node.driver.revoke(start)
        machine.wait_until(lambda: node.driver.usage(start).free, what="free despite a bystander")


async def test_the_kernel_refuses_whatever_exceeds_the_lease(
    node: nodes.Node, program: Programs
) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)
    async with containers.run(
        *(program("quota"), containers.DEVICE, str(start.size_bytes)),
        file=node.file(start),
        state_dir=node.state_dir,
    ) as process:
        output, _ = await process.communicate()

    assert output.decode().splitlines() == [
        "size: ok",
        "map all: ok",
        "map one more: ENOMEM",
        "touch one more: SIGBUS",
        "fallocate one more: ENOSPC",
        "private copy: ENOMEM",
    ]
    second = node.file(start).with_name("second")
    with pytest.raises(OSError, match="No space left on device"):
        second.touch()
    assert (await node.source.reserved("databases")).free_bytes == 4 * PAGE


async def revoke(node: nodes.Node, start: seams.Start) -> None:
    """Well before a file lease is broken by force, which takes 45 s."""
    async with asyncio.timeout(20):
        await asyncio.to_thread(node.driver.revoke, start)


async def its_successor_is_built_and_it_is_freed_when_its_holder_ends(
    node: nodes.Node, start: seams.Start, holder: asyncio.subprocess.Process
) -> None:
    await revoke(node, start)
    assert node.driver.look([]).resisting == {(start.lease_id, 1)}
    assert node.driver.usage(start).held_bytes == start.size_bytes
    assert node.driver.look([]).attached == {}
    successor = await node.built(
        4 * PAGE, lease_id=start.lease_id, number=2, others=frozenset({start.slot})
    )
    await revoke(node, start)
    assert node.driver.look([]).attached == {(successor.lease_id, 2): 4 * PAGE}

    assert holder.stdin
    holder.stdin.close()
    await holder.wait()

    async def freed() -> bool:
        await revoke(node, start)
        return node.driver.usage(start).free

    async with asyncio.timeout(60):
        while not await freed():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert node.driver.look([]).resisting == frozenset()
    assert node.read(successor) == b"\0"


async def test_a_file_lease_of_the_container_delays_nobody_else(
    node: nodes.Node, program: Programs
) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)
    async with holding("lease", node=node, start=start, program=program, user=0) as holder:
        await its_successor_is_built_and_it_is_freed_when_its_holder_ends(node, start, holder)


async def test_nothing_is_kept_of_a_start_that_its_container_emptied_and_still_resists(
    node: nodes.Node, program: Programs
) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)
    os.truncate(node.file(start), 0)
    async with holding("lease", node=node, start=start, program=program, user=0):
        await revoke(node, start)
        assert node.driver.usage(start).free
        assert node.driver.look([]).resisting == frozenset()


INTERPRETER = ("interp", "-nostdlib", "-static")


async def test_no_program_runs_from_a_lease(node: nodes.Node, program: Programs) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)
    how = ("exec", program(*INTERPRETER))
    async with holding(*how, node=node, start=start, program=program, user=0, says="EACCES"):
        await revoke(node, start)
        assert node.driver.usage(start).free


async def test_a_program_that_runs_from_a_lease_of_before_is_detached_and_freed_at_its_end(
    node: nodes.Node, program: Programs
) -> None:
    await node.apply(8 * PAGE)
    start = await node.built(4 * PAGE)
    directory = str(node.file(start).parent)
    mount = await asyncio.create_subprocess_exec("mount", "-o", "remount,bind,exec", directory)
    assert await mount.wait() == 0
    how = ("exec", program(*INTERPRETER))
    async with holding(*how, node=node, start=start, program=program, user=0) as holder:
        await its_successor_is_built_and_it_is_freed_when_its_holder_ends(node, start, holder)


async def until_free(node: nodes.Node, start: seams.Start) -> None:
    machine.wait_until(lambda: node.driver.usage(start).free, what="free")


async def test_what_was_known_of_a_revoked_start_is_forgotten_when_it_is_free(
    node: nodes.Node,
) -> None:
    await node.apply(8 * PAGE)
    for number in range(1, 4):
        start = await node.built(4 * PAGE, lease_id="a", number=number)
        node.driver.revoke(start)
        await until_free(node, start)
        await node.source.refill("databases")
    assert isinstance(node.driver, driver.HugeTLBFS)
    assert node.driver._revoked_devices == {}

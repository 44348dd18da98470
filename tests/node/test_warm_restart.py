"""keep-on-restart on real pages: the lease core over the real driver, and memcached with it."""

import asyncio
import contextlib
import functools
import os
import pathlib
import tempfile
from collections.abc import AsyncIterator

import pytest

from node import caches, containers, nodes
from node.nodes import PAGE
from som_device_plugin import seams
from unit.leases.worlds import Killed

INSTALL = pathlib.Path(__file__).parents[1] / "install-packages"


@pytest.fixture
async def world(node: nodes.Node) -> AsyncIterator[caches.RealWorld]:
    async with caches.world(node, 64 * PAGE) as made:
        yield made


async def test_a_restart_finds_its_bytes_and_whoever_comes_after_the_pod_zeroes(
    world: caches.RealWorld, node: nodes.Node
) -> None:
    pod = await world.admit("cache", 4, keep=True)
    other = await world.admit("other", 4, keep=True)
    first, content = await world.started(pod)
    assert (node.read(first), content) == (b"\0", "SOM_CONTENT=fresh")
    node.fill(first, b"x")
    assert await world.started(other) != (first, content)

    assert await world.started(pod) == (first, "SOM_CONTENT=kept")
    assert node.read(first) == b"x"
    assert node.driver.usage(first) == seams.Usage(4 * PAGE, 4 * PAGE)
    theirs, _ = await world.started(other)
    assert node.read(theirs) == b"\0"

    await world.ended(pod)
    namesake, content = await world.started(await world.admit("cache", 60, keep=True))
    assert (node.read(namesake), content) == (b"\0", "SOM_CONTENT=fresh")


async def test_a_restart_after_the_container_cut_pages_off_finds_zeroes(
    world: caches.RealWorld, node: nodes.Node
) -> None:
    pod = await world.admit("cache", 4, keep=True)
    first, _ = await world.started(pod)
    node.fill(first, b"x")
    os.truncate(node.file(first), 3 * PAGE)
    os.truncate(node.file(first), 4 * PAGE)
    second, content = await world.started(pod)
    assert (second.number, content) == (2, "SOM_CONTENT=fresh")
    assert node.read(second) == b"\0"


async def test_an_agent_killed_at_any_call_of_a_warm_restart_loses_no_byte(
    world: caches.RealWorld, node: nodes.Node
) -> None:
    pod = await world.admit("cache", 4, keep=True)
    first, _ = await world.started(pod)
    node.fill(first, b"x")
    for calls in range(100):
        world.calls_left = calls
        with contextlib.suppress(Killed):
            await world.started(pod)
        was_killed = world.killed
        await world.crash()
        assert await world.started(pod) == (first, "SOM_CONTENT=kept")
        assert node.read(first) == b"x"
        if not was_killed:
            return
    pytest.fail("the agent was killed each time")


async def test_a_pods_successor_finds_its_bytes_until_somebody_needs_the_pages(
    world: caches.RealWorld, node: nodes.Node
) -> None:
    pod = await world.admit("cache-0", 4, keep_s=60)
    first, _ = await world.started(pod)
    node.fill(first, b"x")
    world.cluster.running.remove(pod)
    other = await world.admit("cache-1", 4, keep_s=60)
    theirs, content = await world.started(other)
    assert (node.read(theirs), content) == (b"\0", "SOM_CONTENT=fresh")

    heir = await world.admit("cache-0", 4, keep_s=60)
    second, content = await world.started(heir)
    assert (second.mount_source, content) == (first.mount_source, "SOM_CONTENT=kept")
    assert node.read(second) == b"x"

    node.fill(second, b"y")
    world.cluster.running.remove(heir)
    await world.crash()
    assert node.driver.usage(second) == seams.Usage(4 * PAGE, 4 * PAGE)
    large, content = await world.started(await world.admit("large", 60))
    assert (node.read(large), content) == (b"\0", "SOM_CONTENT=fresh")
    assert second.built not in node.driver.look([]).attached


async def test_an_agent_killed_as_content_changes_hands_loses_no_byte(
    world: caches.RealWorld, node: nodes.Node
) -> None:
    pod = await world.admit("cache-0", 4, keep_s=60)
    first, _ = await world.started(pod)
    node.fill(first, b"x")
    for calls in range(0, 200, 5):
        world.cluster.running.remove(pod)
        pod = await world.admit("cache-0", 4, keep_s=60)
        world.calls_left = calls
        with contextlib.suppress(Killed):
            await world.started(pod)
        was_killed = world.killed
        await world.crash()
        start, content = await world.started(pod)
        assert (start.mount_source, content) == (first.mount_source, "SOM_CONTENT=kept")
        assert node.read(start) == b"x"
        if not was_killed:
            return
    pytest.fail("the agent was killed each time")


async def test_memcached_finds_all_its_items_after_a_restart(
    world: caches.RealWorld, node: nodes.Node
) -> None:
    installing = await asyncio.create_subprocess_exec(INSTALL, "memcached")
    assert await installing.wait() == 0
    pod = await world.admit("cache", 64, keep=True)
    start, _ = await world.started(pod)
    count, value = 500, b"v" * 50_000
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.chown(folder, 1000, 1000)
        (folder / "mem").symlink_to(containers.DEVICE)
        memcached = functools.partial(
            caches.memcached,
            *(folder, node.file(start)),
            size_bytes=start.size_bytes,
            state_dir=node.state_dir,
        )
        async with memcached() as (reader, writer):
            for number in range(count):
                writer.write(b"set k%d 0 0 %d\r\n%s\r\n" % (number, len(value), value))
                assert await reader.readline() == b"STORED\r\n"
        assert await world.started(pod) == (start, "SOM_CONTENT=kept")
        await caches.next_second()
        async with memcached() as (reader, writer):
            writer.write(b"".join(b"get k%d\r\n" % number for number in range(count)))
            for number in range(count):
                header = await reader.readline()
                assert header == b"VALUE k%d 0 %d\r\n" % (number, len(value))
                assert await reader.readexactly(len(value) + 7) == value + b"\r\nEND\r\n"

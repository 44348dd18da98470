"""keep-on-restart on real pages: the lease core over the real driver, and memcached with it."""

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from typing import cast

import pytest

from fakes import node as fake_node
from node import containers, machine, nodes
from node.nodes import MIB, PAGE
from som_api import v1alpha1
from som_device_plugin import pools, seams
from som_device_plugin.leases import state
from unit.leases.worlds import Killed, Mortal, World

POOL = "databases"
INSTALL = pathlib.Path(__file__).parents[1] / "install-packages"


class RealPools(fake_node.FakePools):
    """One pool of huge pages: what the last refill said of it."""

    def __init__(self, node: nodes.Node) -> None:
        super().__init__({})
        self._node = node
        self.reserved = seams.PoolReserved(POOL)

    def for_unit(self, unit: v1alpha1.Unit) -> pools.ActivePool:
        ordered = nodes.node_pool(self.reserved.capacity_bytes, pool=POOL, page=unit)
        return pools.ActivePool(ordered, "HugeTLBFS", self.reserved, pools.State.SETTLED)

    async def refill(self) -> None:
        self.reserved = await self._node.source.refill(POOL)


class RealWorld(World):
    """An agent's lease core on huge pages; pods and kubelet are fakes."""

    def __init__(self, node: nodes.Node) -> None:
        self.node = node
        super().__init__(node.state_dir / "som.db")

    def make_drivers(self) -> Mapping[str, seams.Driver]:
        self.node.restart()
        self.pools = RealPools(self.node)
        self.driver = Mortal(self.node.driver, self)
        return {"HugeTLBFS": cast(seams.Driver, self.driver)}

    async def started(self, pod: fake_node.FakePod) -> tuple[seams.Start, str]:
        """PreStartContainer: the start that the container has, and its SOM_CONTENT."""
        await self.pools.refill()
        await self.service.pre_start([pod.ticket])
        lease = self.store.of_ticket(pod.ticket)[-1]
        assert lease.live and lease.live.state is state.State.DELIVERED
        spec = json.loads((self.cdi_dir / f"som.io-lease-{lease.lease_id}.json").read_text())
        env = spec["devices"][0]["containerEdits"]["env"]
        return lease.live.start, env[-1]


@pytest.fixture
async def world(node: nodes.Node) -> AsyncIterator[RealWorld]:
    await node.apply(64 * PAGE)
    world = RealWorld(node)
    yield world
    await world.starts.close()
    world.connection.close()
    shutil.rmtree(world.cdi_dir)


async def test_a_restart_finds_its_bytes_and_whoever_comes_after_the_pod_zeroes(
    world: RealWorld, node: nodes.Node
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

    world.cluster.running.remove(pod)
    await world.reconciler.reconcile()
    machine.wait_until(lambda: node.driver.usage(first).free, what="the start is free")
    namesake, content = await world.started(await world.admit("cache", 60, keep=True))
    assert (node.read(namesake), content) == (b"\0", "SOM_CONTENT=fresh")


async def test_a_restart_after_the_container_cut_pages_off_finds_zeroes(
    world: RealWorld, node: nodes.Node
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
    world: RealWorld, node: nodes.Node
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
    world: RealWorld, node: nodes.Node
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
    world: RealWorld, node: nodes.Node
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


@contextlib.asynccontextmanager
async def memcached(
    folder: pathlib.Path, start: seams.Start, node: nodes.Node
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a memcached in a container, which saves its state at the end."""
    command = ["memcached", "-e", str(folder / "mem"), "-s", str(folder / "socket")]
    command += ["-m", str(start.size_bytes // MIB), "-t", "1"]
    async with containers.run(*command, file=node.file(start), state_dir=node.state_dir) as process:
        try:
            reader, writer = await asyncio.wait_for(_connected(folder / "socket", process), 20)
            yield reader, writer
            writer.close()
            process.send_signal(signal.SIGUSR1)
            await asyncio.wait_for(process.wait(), 20)
        finally:
            if process.returncode is None:
                process.kill()


async def _connected(
    socket: pathlib.Path, process: asyncio.subprocess.Process
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while process.returncode is None:
        with contextlib.suppress(OSError):
            return await asyncio.open_unix_connection(socket)
        await asyncio.sleep(0.02)
    raise AssertionError(f"memcached has ended with status {process.returncode}")


async def test_memcached_finds_all_its_items_after_a_restart(
    world: RealWorld, node: nodes.Node
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
        async with memcached(folder, start, node) as (reader, writer):
            for number in range(count):
                writer.write(b"set k%d 0 0 %d\r\n%s\r\n" % (number, len(value), value))
                assert await reader.readline() == b"STORED\r\n"
        assert await world.started(pod) == (start, "SOM_CONTENT=kept")
        # memcached takes a stop within this second for one in the future.
        stopped_s = int(time.time())
        await asyncio.to_thread(
            machine.wait_until, lambda: time.time() >= stopped_s + 1, what="the next second"
        )
        async with memcached(folder, start, node) as (reader, writer):
            writer.write(b"".join(b"get k%d\r\n" % number for number in range(count)))
            for number in range(count):
                header = await reader.readline()
                assert header == b"VALUE k%d 0 %d\r\n" % (number, len(value))
                assert await reader.readexactly(len(value) + 7) == value + b"\r\nEND\r\n"

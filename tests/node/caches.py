"""A cache that keeps its memory: the lease core over the real driver, and memcached in it."""

import asyncio
import contextlib
import json
import pathlib
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final, cast

from fakes import node as fake_node
from node import containers, machine, nodes
from node.nodes import MIB
from som_api import v1alpha1
from som_device_plugin import pools, seams
from som_device_plugin.leases import state
from unit.leases.worlds import Mortal, World

POOL: Final = "databases"


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

    async def ended(self, pod: fake_node.FakePod) -> None:
        """Returns when nobody has the pod's memory any more."""
        live = self.store.of_ticket(pod.ticket)[-1].live
        assert live
        self.cluster.running.remove(pod)
        await self.reconciler.reconcile()
        free = asyncio.to_thread(
            machine.wait_until,
            lambda: self.node.driver.usage(live.start).free,
            what="the start is free",
        )
        await free


@contextlib.asynccontextmanager
async def world(node: nodes.Node, size_bytes: int) -> AsyncIterator[RealWorld]:
    """An agent with a pool of this size on `node`."""
    await node.apply(size_bytes, pool=POOL)
    made = RealWorld(node)
    try:
        yield made
    finally:
        await made.starts.close()
        made.connection.close()
        shutil.rmtree(made.cdi_dir, ignore_errors=True)


@contextlib.asynccontextmanager
async def memcached(
    folder: pathlib.Path, file: pathlib.Path, *, size_bytes: int, state_dir: pathlib.Path
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a memcached in a container, which saves its state at the end."""
    command = ["memcached", "-e", str(folder / "mem"), "-s", str(folder / "socket")]
    command += ["-m", str(size_bytes // MIB), "-t", "1"]
    async with containers.run(*command, file=file, state_dir=state_dir) as process:
        try:
            reader, writer = await asyncio.wait_for(_connected(folder / "socket", process), 60)
            yield reader, writer
            writer.close()
            process.send_signal(signal.SIGUSR1)
            await asyncio.wait_for(process.wait(), 60)
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


async def next_second() -> None:
    """memcached takes a stop within this second for one in the future."""
    stopped_s = int(time.time())
    ended = asyncio.to_thread(
        machine.wait_until, lambda: time.time() >= stopped_s + 1, what="the next second"
    )
    await ended

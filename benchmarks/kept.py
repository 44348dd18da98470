"""Memory that is kept over a restart, for the benchmarks: the agent's lease core on real pages.

Pods and kubelet are the node tier's; what a container of theirs runs is real.
"""

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable

import local

sys.path.insert(0, str(local.HERE.parent / "tests"))

from node import caches, machine, nodes

Start = Callable[[], Awaitable[pathlib.Path]]
"""Makes ready what the container gets as its memory, and returns where that is."""


@contextlib.asynccontextmanager
async def agent(*, mib: int) -> AsyncIterator[caches.RealWorld]:
    """One with a pool of `mib` MiB, given back after it."""
    with machine.turn(), tempfile.TemporaryDirectory(prefix="som-") as name:
        machine.own_mount_namespace()
        node = nodes.Node(pathlib.Path(name))
        try:
            async with caches.world(node, mib << 20) as world:
                yield world
        finally:
            await node.give_back()


@contextlib.asynccontextmanager
async def pod(world: caches.RealWorld, *, mib: int) -> AsyncIterator[Start]:
    """PreStartContainer of a new pod: zeroed the first time, then with what is kept."""
    admitted = await world.admit("cache", mib // 2, keep=True)

    async def start() -> pathlib.Path:
        return world.node.file((await world.started(admitted))[0])

    yield start
    await world.ended(admitted)


@contextlib.asynccontextmanager
async def tmpfs() -> AsyncIterator[Start]:
    """A new file in a tmpfs, as in an emptyDir of medium Memory."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        pathlib.Path(file.name).chmod(0o666)

        async def start() -> pathlib.Path:
            return pathlib.Path(file.name)

        yield start

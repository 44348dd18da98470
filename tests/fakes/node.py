"""A fake node for the lease core: memory, mounts, pods and kubelet in plain Python.

A fake because a property test needs thousands of lives; the same lives run on real huge pages in
the node tier. `FakeKernel` outlives the agent as the real one does: a crash drops the agent's
objects and leaves this.
"""

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from som_api import v1alpha1
from som_device_plugin import pools, seams

PAGE = 2 << 20
OWN_POD = "som-system/som-agent"


def carved(capacity_bytes: int, *, name: str = "a") -> v1alpha1.NodePool:
    """A pool of carved memory, as a node is ordered to have it."""
    source = v1alpha1.Source(carved=v1alpha1.Carved())
    return order(capacity_bytes, name=name).model_copy(
        update={"source": source, "driver": "Kernel"}
    )


def order(
    capacity_bytes: int, *, name: str = "a", unit: v1alpha1.Unit = "2Mi"
) -> v1alpha1.NodePool:
    """A pool of pages of 2 MiB, as a node is ordered to have it."""
    source = v1alpha1.Source(huge_tlb=v1alpha1.HugeTLB(page_size="2Mi"))
    return v1alpha1.NodePool(
        name=name, generation=1, unit=unit, capacity=capacity_bytes, source=source
    )


@dataclasses.dataclass
class Superblock:
    """One start's memory: `writer` is whose bytes are in it, None: zeroed.

    `lost_bytes`: its container cut them off.
    """

    start: seams.Start
    mounted: bool = False
    truncated: bool = False
    pinned_bytes: int = 0
    lost_bytes: int = 0
    writer: str | None = None


class FakeKernel:
    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.superblocks: list[Superblock] = []
        self.paths: set[seams.LeaseId] = set()

    def of(self, start: seams.Start) -> list[Superblock]:
        return [b for b in self.superblocks if b.start.name == start.name]

    def in_slot(self, pool: str, slot: int) -> list[Superblock]:
        return [b for b in self.superblocks if (b.start.pool, b.start.slot) == (pool, slot)]

    def held_bytes(self, block: Superblock) -> int:
        if block.truncated:
            return block.pinned_bytes
        return block.start.size_bytes - block.lost_bytes

    def used_bytes(self) -> int:
        return sum(self.held_bytes(block) for block in self.superblocks)

    def free_bytes(self) -> int:
        return self.capacity_bytes - self.used_bytes()


def path_of(start: seams.Start) -> str:
    """Unlike HugeTLBFS's, of each start its own: a spec of the start before would be found out."""
    return f"/leases/{start.name}"


class FakeDriver:
    """Implements seams.Driver on a FakeKernel; each await is a point where the agent may die."""

    keeps_content = True
    zeroes_at_build = True

    def __init__(self, kernel: FakeKernel, *, name: str = "Fake") -> None:
        self.kernel = kernel
        self.name = name

    def self_check(self) -> None:
        pass

    def edits(self, start: seams.Start) -> seams.ContainerEdits:
        return seams.ContainerEdits((seams.Mount(path_of(start), seams.DEVICE_PATH, ("bind",)),))

    def remove_path(self, lease_id: seams.LeaseId) -> None:
        for block in self.kernel.superblocks:
            if block.mounted and block.start.built[0] == lease_id:
                raise seams.DriverError(f"{block.start.name} is still mounted there")
        self.kernel.paths.discard(lease_id)

    def free_slot(self, *, pool: str, named: frozenset[int]) -> int:
        return next(
            slot
            for slot in itertools.count()
            if slot not in named
            and not any(self.kernel.held_bytes(b) for b in self.kernel.in_slot(pool, slot))
        )

    async def build(
        self,
        start: seams.Start,
        *,
        on_progress: Callable[[int], None],
        is_spare: bool = False,
        is_movable: bool = False,
    ) -> Mapping[int, int]:
        for block in self.kernel.of(start):
            # An adopted spare: what is beyond its size goes back.
            await asyncio.sleep(0)
            block.start = start
            return {0: start.size_bytes}
        self.kernel.paths.add(start.built[0])
        await asyncio.sleep(0)
        if self.kernel.free_bytes() < start.size_bytes:
            raise seams.NotEnoughMemory("no pages")
        block = Superblock(start)
        self.kernel.superblocks.append(block)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.kernel.superblocks.remove(block)
            raise
        on_progress(start.size_bytes)
        block.mounted = True
        return {0: start.size_bytes}

    def revoke(self, start: seams.Start) -> None:
        for block in self.kernel.of(start):
            block.mounted, block.truncated = False, True

    def usage(self, start: seams.Start) -> seams.Usage:
        held = sum(map(self.kernel.held_bytes, self.kernel.in_slot(start.pool, start.slot)))
        return seams.Usage(current_bytes=held, reserved_bytes=held)

    def look(self, starts: Sequence[seams.Start]) -> seams.Seen:
        return seams.Seen(
            attached={
                b.start.built: b.start.size_bytes for b in self.kernel.superblocks if b.mounted
            },
            resisting=frozenset(),
            usage={start.built: self.usage(start) for start in starts},
        )

    def statistics(self, start: seams.Start) -> seams.Statistics | None:
        return None

    def compact(self, pool: str, *, most_bytes: int) -> int:
        return 0

    def promote(self, pool: str, *, most_bytes: int) -> seams.Promotion:
        return seams.Promotion(0, 0)

    def moves(self, pool: str) -> seams.Moves | None:
        return None

    def culprits(self, start: seams.Start) -> Sequence[str]:
        return []

    def end_builders(self) -> None:
        """A worker that dies before attaching frees its superblock."""
        self.kernel.superblocks = [b for b in self.kernel.superblocks if b.mounted or b.truncated]

    async def close(self) -> None:
        pass


class FakePools(pools.Pools):
    """What leases use of it: a pool of each unit, of all its kernel has."""

    ready = True
    shrinking = False
    warm: Sequence[v1alpha1.Warm] | None = None

    def __init__(self, drivers: Mapping[v1alpha1.Unit, FakeDriver]) -> None:
        self.drivers = drivers
        self.refills = 0

    def for_unit(self, unit: v1alpha1.Unit) -> pools.ActivePool:
        driver = self.drivers[unit]
        capacity_bytes, free_bytes = driver.kernel.capacity_bytes, driver.kernel.free_bytes()
        ordered_bytes = v1alpha1.UNIT_BYTES[unit] if self.shrinking else capacity_bytes
        ordered = order(ordered_bytes, name=f"pool-{unit.lower()}", unit=unit).model_copy(
            update={"warm": self.warm if unit == "2Mi" else None}
        )
        reserved = seams.PoolReserved(
            ordered.name,
            capacity_bytes,
            free_bytes,
            node_bytes={0: capacity_bytes},
            page_bytes=PAGE,
        )
        return pools.ActivePool(ordered, driver.name, reserved, pools.State.SETTLED)

    def pools(self) -> Mapping[str, pools.ActivePool]:
        return {pool.name: pool for pool in map(self.for_unit, self.drivers)}

    async def refill(self) -> None:
        self.refills += 1
        await asyncio.sleep(0)


@dataclasses.dataclass
class FakePod:
    pod: seams.Pod
    ticket: seams.Ticket
    known_to_api: bool = True
    container_runs: bool = False
    delivered: Superblock | None = None

    @property
    def memory(self) -> Superblock:
        """What was delivered to it."""
        assert self.delivered is not None
        return self.delivered


class FakeCluster:
    """The node's pods, as the API server (PodSource) and kubelet (PodResourcesClient) see them."""

    def __init__(self) -> None:
        self.running: list[FakePod] = []
        self.synced = True
        self.kubelet_answers = True

    def pods(self) -> list[seams.Pod]:
        return [p.pod for p in self.running if p.known_to_api]

    def get(self, *, namespace: str, name: str) -> seams.Pod | None:
        found = [p for p in self.pods() if (p.namespace, p.name) == (namespace, name)]
        return found[-1] if found else None

    async def list(self) -> seams.PodResources:
        await asyncio.sleep(0)
        if not self.kubelet_answers:
            return seams.PodResources(pods=frozenset(), holders=())
        holders = tuple(
            seams.TicketHolder(p.pod.namespace, p.pod.name, p.pod.containers[0].name, p.ticket)
            for p in self.running
            if p.known_to_api or p.container_runs
        )
        names = {f"{p.pod.namespace}/{p.pod.name}" for p in self.running}
        return seams.PodResources(pods=frozenset(names | {OWN_POD}), holders=holders)

"""A fake node and an agent of leases on it that can be killed, for the tests of this folder."""

import asyncio
import json
import pathlib
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar, cast

from fakes import node
from fakes.clock import FakeClock
from fakes.reporter import FakeReporter
from som_api import SomError, v1alpha1
from som_device_plugin import cdi, changes, database, seams
from som_device_plugin.leases import (
    keeper,
    reconciler,
    service,
    starts,
    state,
    store,
    witnesses,
)

T = TypeVar("T")

CAPACITY = 32 * node.PAGE
TICKETS = [seams.Ticket(f"n0-{number}") for number in range(4)]


class Killed(BaseException):
    """SIGKILL has hit the agent: nothing of it does anything any more."""


class Mortal:
    """A part of an agent, which may die before and after each of its calls."""

    def __init__(self, part: object, world: "World") -> None:
        self._part = part
        self._world = world

    def __setattr__(self, name: str, value: Any) -> None:
        """A test may replace a method."""
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            self._world.may_die()
            result = method(*arguments, **named)
            if asyncio.iscoroutine(result):
                return self._awaited(result)
            self._world.may_die()
            return result

        return call

    async def _awaited(self, result: Awaitable[T]) -> T:
        value = await result
        self._world.may_die()
        return value


class World:
    """A fake node and an agent on it that can be killed and started again.

    Units of 1Gi come from a kernel and a driver of their own.
    """

    calls_left: int | None

    def __init__(self, path: pathlib.Path) -> None:
        self.kernel = node.FakeKernel(CAPACITY)
        self.large_kernel = node.FakeKernel(4 << 30)
        self.cluster = node.FakeCluster()
        self.reporter = FakeReporter()
        self.events = self.reporter.events
        self.path = path
        self.cdi_dir = path.parent / "cdi"
        self.uid = 0
        self.admitted: dict[str, seams.Pod] = {}
        self.clock = FakeClock()
        self.boot_id = "boot-1"
        self.start_agent()

    def may_die(self) -> None:
        """SIGKILL after so many more calls of store and driver as `calls_left` says."""
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed

    def disk(self, *, full: bool) -> None:
        """Whether the store can be written."""
        self.connection.execute(f"PRAGMA query_only = {int(full)}")

    @property
    def killed(self) -> bool:
        return self.calls_left is not None and self.calls_left < 0

    def start_agent(self) -> None:
        self.calls_left = None
        self.connection = database.open_database(self.path)
        changed = changes.Changes()
        self.records = store.LeaseStore(self.connection, changed)
        self.store = self.mortal(self.records)
        drivers = self.make_drivers()
        self.specs: cdi.Specs = self.mortal(cdi.Specs(self.cdi_dir))
        self.starts = starts.Starts(
            leases=self.store,
            drivers=drivers,
            specs=self.specs,
            boot_id=self.boot_id,
            reporter=self.reporter,
            time=self.clock,
        )
        own_witnesses = witnesses.Witnesses(self.cluster, self.cluster, node.OWN_POD)
        self.reconciler = reconciler.Reconciler(
            own_starts=self.starts,
            own_pools=self.pools,
            own_witnesses=own_witnesses,
            reporter=self.reporter,
            changed=changed,
            time=self.clock,
        )
        self.keeper = keeper.Keeper(
            own_starts=self.starts, own_pools=self.pools, changed=changed, time=self.clock
        )
        self.service = service.TicketService(
            own_keeper=self.keeper,
            own_starts=self.starts,
            own_reconciler=self.reconciler,
            own_pools=self.pools,
            own_witnesses=own_witnesses,
            numa_nodes=[0],
            reporter=self.reporter,
            changed=changed,
            time=self.clock,
        )

    def make_drivers(self) -> Mapping[str, seams.Driver]:
        """A new agent's drivers by name, and its pools."""
        driver = node.FakeDriver(self.kernel)
        large = node.FakeDriver(self.large_kernel, name="Large")
        self.driver = Mortal(driver, self)
        self.pools = node.FakePools({"2Mi": driver, "1Gi": large})
        return {"Fake": cast(seams.Driver, self.driver), "Large": large}

    def mortal(self, part: T) -> T:
        return cast(T, Mortal(part, self))

    async def crash(self) -> None:
        """SIGKILL: builds stop where they are, nothing is tidied up but by the kernel."""
        for build in list(self.starts._builds.values()):
            build.task.cancel()
            await asyncio.wait([build.task])
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.wait([task])
        self.start_agent()
        self.driver.end_builders()
        await self.reconciler.reconcile()

    def chosen(self) -> list[seams.Ticket]:
        """The ticket that kubelet would hand out now, if any."""
        used = {p.ticket for p in self.cluster.running}
        free = [t for t in TICKETS if t not in used]
        return self.service.preferred(available=free, must_include=[], size=1)

    async def admit(
        self,
        name: str,
        count: int,
        *,
        unit: v1alpha1.Unit = "2Mi",
        keep: bool = False,
        keep_s: float = 0.0,
        lineage: str = "set/default",
        ticket: seams.Ticket | None = None,
    ) -> node.FakePod:
        """What kubelet does for a pod: choose a ticket, Allocate. Its fault: one that is taken."""
        ticket = ticket or self.chosen()[0]
        self.uid += 1
        pod = seams.Pod(
            namespace="default",
            name=name,
            uid=seams.PodUid(f"uid-{self.uid}"),
            terminal=False,
            containers=(seams.ContainerRequest(name="main", unit=unit, count=count),),
            keep_on_restart={"main": keep_s} if keep or keep_s else {},
            lineage=lineage,
        )
        self.admitted[pod.uid] = pod
        await self.service.allocate([ticket])
        self.cluster.running.append(node.FakePod(pod, ticket))
        return self.cluster.running[-1]

    async def start_container(self, pod: node.FakePod) -> bool:
        """PreStartContainer, then the container runs and writes to its memory."""
        try:
            await self.service.pre_start([pod.ticket])
        except SomError:
            return False
        usable = [b for b in self.kernel.superblocks if b.mounted and not b.truncated]
        (block,) = [b for b in usable if self.owner_of(b) == pod.pod.uid]
        self.check_spec(block, pod.pod)
        is_kept = block is pod.delivered and bool(pod.pod.keep_on_restart)
        if not is_kept and not self.is_left_for(pod, block):
            assert block.writer is None, "memory of an earlier owner or start was handed out"
        assert not block.lost_bytes, "memory with holes was handed out"
        if self.content_of(block) == "fresh":
            assert block.writer is None, "what somebody has written to was called fresh"
        else:
            assert pod.pod.keep_on_restart
        block.writer = pod.pod.uid
        assert block.start.size_bytes == pod.pod.containers[0].size_bytes
        pod.delivered, pod.container_runs = block, True
        return True

    def is_left_for(self, pod: node.FakePod, block: node.Superblock) -> bool:
        """Whether who wrote to this memory has gone, and left it to such a pod as this."""
        if block.writer is None or pod.delivered is not None:
            return False
        writer, heir = self.admitted[block.writer], pod.pod
        assert all(other.pod is not writer for other in self.cluster.running)
        return (
            (writer.namespace, writer.name, writer.lineage)
            == (heir.namespace, heir.name, heir.lineage)
            and [each.size_bytes for each in writer.containers]
            == [each.size_bytes for each in heir.containers]
            and all(each.keep_on_restart.get("main") for each in (writer, heir))
        )

    def content_of(self, block: node.Superblock) -> str:
        """What the spec says that a container finds in its memory."""
        env = dict(each.split("=") for each in self.edits_of(block)["env"])
        return str(env["SOM_CONTENT"])

    def edits_of(self, block: node.Superblock) -> Any:
        """What the spec of whoever has this memory says."""
        (lease_id,) = [
            lease.lease_id
            for lease in self.records.leases()
            for record in lease.starts
            if record.start.name == block.start.name
        ]
        spec = json.loads((self.cdi_dir / f"som.io-lease-{lease_id}.json").read_text())
        return spec["devices"][0]["containerEdits"]

    def unused_names(self) -> list[str]:
        """The API server knows each name once."""
        used = {p.pod.name for p in self.cluster.running if p.known_to_api}
        return sorted({f"pod-{number}" for number in range(len(TICKETS) + 1)} - used)

    def owner_of(self, block: node.Superblock) -> seams.PodUid | None:
        return next(
            (
                lease.owner.uid
                for lease in self.records.leases()
                for record in lease.starts
                if lease.owner and record.start.name == block.start.name
            ),
            None,
        )

    async def keep_spares(self) -> None:
        """A quiet moment: the keeper looks, and its build ends."""
        await self.clock.advance(keeper.LONGEST_RETRY_S)
        await self.keeper.keep()
        for build in list(self.starts._builds.values()):
            await asyncio.wait([build.task])

    def spares(self) -> list[node.Superblock]:
        """The memory of spares that can be adopted."""
        names = {
            record.start.name
            for lease in self.records.leases()
            for record in lease.starts
            if lease.is_spare and not lease.ended and record.state is state.State.READY
        }
        return [block for block in self.kernel.superblocks if block.start.name in names]

    def check_spec(self, block: node.Superblock, pod: seams.Pod) -> None:
        """What the runtime finds when it makes the container."""
        edits = self.edits_of(block)
        assert [mount["hostPath"] for mount in edits["mounts"]] == [node.path_of(block.start)]
        assert f"SOM_BYTES={pod.containers[0].size_bytes}" in edits["env"]
        assert f"SOM_DRIVER={block.start.driver}" in edits["env"]

    def check_specs(self) -> None:
        """At any moment, also with a dead agent: no container can be made with memory that went."""
        there = {node.path_of(b.start) for b in self.kernel.superblocks if b.mounted}
        for path in self.cdi_dir.glob("*.json"):
            edits = json.loads(path.read_text())["devices"][0]["containerEdits"]
            assert {mount["hostPath"] for mount in edits["mounts"]} <= there

    def check(self) -> None:
        self.check_specs()
        assert self.kernel.used_bytes() <= CAPACITY
        for pod in self.cluster.running:
            was_taken = pod.container_runs and (not pod.memory.mounted or pod.memory.truncated)
            assert not was_taken, "memory was taken from a running container"
        assert all(block.writer is None for block in self.spares())
        held = filter(self.kernel.held_bytes, self.kernel.superblocks)
        slots = [(block.start.pool, block.start.slot) for block in held]
        assert len(slots) == len(set(slots)), "two starts share a cgroup"

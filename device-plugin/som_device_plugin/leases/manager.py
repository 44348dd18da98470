"""The shell around the life of leases: kubelet's calls in, drivers and the store out.

Everything that is decided is decided in `state` and `decide`. This module keeps one order: what
is to happen is stored first, then done, and doing it twice is harmless. So an agent that dies at
any instruction finds in `recover` what it has to finish.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import SomError, metrics, pools, seams
from som_device_plugin.leases import decide, state, store

log = logging.getLogger(__name__)

PRE_START_LIMIT_S: Final = 25.0
"""Kubelet gives PreStartContainer 30 s (deviceplugin/v1beta1/constants.go)."""

LOOK_EVERY_S: Final = 1.0
RECONCILE_EVERY_S: Final = 10.0
HELD_REPORT_AFTER_S: Final = 10.0

Key = tuple[seams.LeaseId, int]


@dataclasses.dataclass
class _Build:
    task: asyncio.Task[None]
    ready_bytes: int = 0
    error: str = ""


class LeaseManager:
    """Hands out leases to tickets, makes them real, takes them back. Implements TicketService."""

    def __init__(
        self,
        *,
        leases: store.LeaseStore,
        driver: seams.Driver,
        pools: pools.Pools,
        pods: seams.PodSource,
        resources: seams.PodResourcesClient,
        tickets: Sequence[seams.Ticket],
        own_pod: str,
        boot_id: str,
        on_event: Callable[[seams.Event], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        self._store = leases
        self._driver = driver
        self._pools = pools
        self._pods = pods
        self._resources = resources
        self._tickets = tuple(tickets)
        self._own_pod = own_pod
        self._boot_id = boot_id
        self._on_event = on_event
        self._on_change = on_change
        self._builds: dict[Key, _Build] = {}
        self._locks: dict[seams.LeaseId, asyncio.Lock] = {}
        self._reconciling = asyncio.Lock()
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._last_use: dict[seams.Ticket, int] = {}
        self._held_since: dict[Key, float] = {}
        self.findings: tuple[decide.Finding, ...] = ()

    # Kubelet's calls

    def devices(self) -> list[seams.TicketDevice]:
        """Free tickets are healthy while a pool can serve; those in use always are."""
        self._changed.clear()
        in_use = {lease.ticket for lease in self._store.leases() if not lease.ended}
        return [
            seams.TicketDevice(
                ticket=ticket,
                healthy=self._pools.ready or ticket in in_use,
                numa_node=_numa_node(ticket),
            )
            for ticket in self._tickets
        ]

    async def changed(self) -> None:
        """Returns when `devices` may have changed since it was last asked."""
        await self._changed.wait()

    def announce(self) -> None:
        """Have the tickets advertised again."""
        self._changed.set()

    def preferred(
        self,
        *,
        available: Sequence[seams.Ticket],
        must_include: Sequence[seams.Ticket],
        size: int,
    ) -> list[seams.Ticket]:
        """Unused longest first; never one that a lease with memory still uses."""
        busy = {lease.ticket for lease in self._store.leases() if lease.starts}
        free = [t for t in available if t not in busy and t not in must_include]
        free.sort(key=lambda ticket: self._last_use.get(ticket, 0))
        return [*must_include, *free][:size]

    async def allocate(self, tickets: Sequence[seams.Ticket]) -> seams.Allocation:
        """Name a new lease for the ticket: one durable write."""
        with metrics.ALLOCATE_SECONDS.time():
            ticket = _only(tickets)
            lease_id = seams.LeaseId(secrets.token_hex(8))
            host_path = self._driver.prepare_path(lease_id)
            self._store.name(lease_id=lease_id, ticket=ticket)
            self._last_use[ticket] = 1 + max(self._last_use.values(), default=0)
        log.info("lease named", extra={"lease": lease_id, "ticket": ticket})
        return seams.Allocation(
            host_path=str(host_path),
            container_path=seams.DEVICE_PATH,
            env={"SOM_DEVICE": seams.DEVICE_PATH, "SOM_DRIVER": self._driver.name},
        )

    async def pre_start(self, tickets: Sequence[seams.Ticket]) -> None:
        """Make the ticket's lease real, within kubelet's patience."""
        with metrics.PRE_START_SECONDS.time():
            ticket = _only(tickets)
            leases = [x for x in self._store.leases() if x.ticket == ticket and not x.ended]
            if not leases:
                raise seams.StartRefused(
                    f"som: this node's agent has no lease for ticket {ticket}: its store under "
                    "/var/lib/som was lost; delete the pod to have it allocated anew"
                )
            lease_id = leases[-1].lease_id
            deadline = time.monotonic() + PRE_START_LIMIT_S
            async with self._locks.setdefault(lease_id, asyncio.Lock()):
                await self._pre_start(lease_id, deadline)

    async def _pre_start(self, lease_id: seams.LeaseId, deadline: float) -> None:
        lease = self._lease(lease_id)
        if lease.owner is None:
            lease = await self._bind(lease)
        record = lease.live
        if record is not None and record.state is state.State.DELIVERED:
            if lease.keep_on_restart and self._intact(record):
                return
            await self._apply(record, state.Event.RESTARTED)
            record = None
        if record is None:
            record = await self._begin(self._lease(lease_id))
        await self._ready(record, deadline)
        if not await self._apply(
            dataclasses.replace(record, state=state.State.READY), state.Event.TOLD
        ):
            raise seams.StartRefused("som: the lease was taken away while it was built, retrying")
        log.info("lease delivered", extra={"lease": lease_id, "owner": str(lease.owner)})

    async def _bind(self, lease: state.Lease) -> state.Lease:
        answer = await self._resources.list()
        try:
            bound = decide.bind(lease, self._store.leases(), answer, self._pods)
        except decide.TwoOwners as fault:
            await self._on_event(seams.Event("TicketFault", str(fault), warning=True))
            raise
        self._store.bind(lease.lease_id, bound)
        return self._lease(lease.lease_id)

    def _intact(self, record: state.StartRecord) -> bool:
        attached = (record.start.lease_id, record.start.number) in self._driver.attached()
        return attached and record.boot_id == self._boot_id

    async def _begin(self, lease: state.Lease) -> state.StartRecord:
        assert lease.request is not None
        pool = self._pools.for_unit(lease.request.unit)
        if pool is None:
            raise seams.StartRefused(
                f"som: no pool of this node serves som.io/{lease.request.unit} now, retrying"
            )
        size_bytes = lease.request.size_bytes
        if pool.free_bytes < size_bytes:
            await self.reconcile()
            pool = self._pools.for_unit(lease.request.unit) or pool
        if pool.free_bytes < size_bytes:
            raise seams.StartRefused(self._shortage(pool, size_bytes))
        start = seams.Start(
            lease_id=lease.lease_id,
            number=lease.next_number,
            pool=pool.name,
            slot=self._driver.free_slot(pool=pool.name, named=self._named_slots(pool.name)),
            size_bytes=size_bytes,
            page_bytes=pool.page_bytes,
            preferred_node=_numa_node(lease.ticket),
        )
        self._store.add_start(start, boot_id=self._boot_id)
        key = (start.lease_id, start.number)
        self._builds[key] = _Build(asyncio.create_task(self._build(start)))
        return state.StartRecord(start=start, state=state.State.BUILDING, boot_id=self._boot_id)

    async def _build(self, start: seams.Start) -> None:
        """Build and record the outcome; a failure is kept for whoever waits for this start."""
        key = (start.lease_id, start.number)
        build = self._builds[key]

        def progress(ready_bytes: int) -> None:
            build.ready_bytes = ready_bytes

        event = state.Event.BUILT
        try:
            placed = await self._driver.build(start, on_progress=progress)
            await self._report_placement(start, placed)
        except asyncio.CancelledError:
            event, build.error = state.Event.BUILD_FAILED, "its pod is gone"
        except seams.DriverError as error:
            event, build.error = state.Event.BUILD_FAILED, str(error)
            log.warning("build failed", extra={"lease": start.lease_id, "error": str(error)})
        record = self._record(key)
        if record is not None:
            await self._apply(record, event)
        del self._builds[key]
        self._wake.set()

    async def _report_placement(self, start: seams.Start, placed: Mapping[int, int]) -> None:
        elsewhere = {node: size for node, size in placed.items() if node != start.preferred_node}
        if start.preferred_node is None or not elsewhere:
            return
        where = ", ".join(f"{v1alpha1.format_bytes(b)} on {n}" for n, b in elsewhere.items())
        message = (
            f"lease {start.lease_id}: NUMA node {start.preferred_node} had too little free memory; "
            f"{where} instead"
        )
        await self._on_event(seams.Event("OtherNumaNode", message))

    async def _ready(self, record: state.StartRecord, deadline: float) -> None:
        key = (record.start.lease_id, record.start.number)
        build = self._builds.get(key)
        if build is None:
            return
        await asyncio.wait([build.task], timeout=max(0.0, deadline - time.monotonic()))
        if not build.task.done():
            ready = v1alpha1.format_bytes(build.ready_bytes)
            size = v1alpha1.format_bytes(record.start.size_bytes)
            raise seams.StartRefused(f"som: warming {ready} of {size}, retrying, no action needed")
        if build.error:
            raise seams.StartRefused(f"som: {build.error}")

    def _shortage(self, pool: pools.ActivePool, size_bytes: int) -> str:
        holders = [
            f"{lease.owner} {v1alpha1.format_bytes(record.start.size_bytes)}"
            + (" (released, still held)" if record.state is state.State.RELEASING else "")
            for lease in self._store.leases()
            for record in lease.starts
            if record.start.pool == pool.name and lease.owner is not None
        ]
        shown = ", ".join(holders[:8]) + (f" and {len(holders) - 8} more" if holders[8:] else "")
        return (
            f"som: needs {v1alpha1.format_bytes(size_bytes)}, but pool {pool.name} has "
            f"{v1alpha1.format_bytes(pool.free_bytes)} free of "
            f"{v1alpha1.format_bytes(pool.capacity_bytes)}; held by: {shown or 'nobody'}; retrying"
        )

    # Reconciliation

    async def recover(self) -> None:
        """What a new agent does first: end what the old one left running, then take stock."""
        await asyncio.to_thread(self._driver.end_builders)
        await self.reconcile()

    async def reconcile(self) -> None:
        """Compare store, kernel and pods; act on every disagreement that is proven."""
        async with self._reconciling:
            leases = self._store.leases()
            kernel = await asyncio.to_thread(self._kernel_view, leases)
            pods = await self._pod_view(leases)
            findings = decide.strays(leases, kernel)
            for lease in leases:
                findings += await self._reconcile_lease(lease, leases, kernel, pods)
            if tuple(findings) != self.findings:
                self.findings = tuple(findings)
                self._on_change()
            listed = None
            if pods.resources is not None and self._own_pod in pods.resources.pods:
                listed = frozenset(holder.ticket for holder in pods.resources.holders)
            for lease_id in self._store.forget_ended(listed=listed):
                self._driver.remove_path(lease_id)
                self._locks.pop(lease_id, None)
            await self._pools.refill()
            await self._report_held()

    async def _reconcile_lease(
        self,
        lease: state.Lease,
        leases: Sequence[state.Lease],
        kernel: decide.KernelView,
        pods: decide.PodView,
    ) -> list[decide.Finding]:
        outcome = decide.about_owner(lease, leases, pods)
        findings = [decide.Finding(outcome, lease.lease_id)]
        if outcome is decide.Outcome.OWNER_GONE and not lease.ended:
            log.info("lease ended", extra={"lease": lease.lease_id, "owner": str(lease.owner)})
            self._store.end(lease.lease_id)
        for record in lease.starts:
            if outcome is decide.Outcome.OWNER_GONE and record.boot_id == self._boot_id:
                await self._apply(record, state.Event.OWNER_GONE)
            about = decide.about_start(lease, record, kernel)
            if about is None:
                continue
            findings.append(decide.Finding(about, lease.lease_id, record.start.number))
            if about in decide.EVENT_OF:
                await self._apply(record, decide.EVENT_OF[about])
        return findings

    def _kernel_view(self, leases: Sequence[state.Lease]) -> decide.KernelView:
        building = frozenset(self._builds)
        records = [record for lease in leases for record in lease.starts]
        return decide.KernelView(
            boot_id=self._boot_id,
            attached=self._driver.attached(),
            usage={
                (record.start.lease_id, record.start.number): self._driver.usage(record.start)
                for record in records
                if record.boot_id == self._boot_id
            },
            building=building,
        )

    async def _pod_view(self, leases: Sequence[state.Lease]) -> decide.PodView:
        """Kubelet is asked only when a lease's pod has gone: that is when its word matters."""
        live = _live_uids(self._pods)
        doubtful = any(
            (lease.owner is not None and not lease.ended and lease.owner.uid not in live)
            or (lease.owner is None and lease.ended)
            for lease in leases
        )
        answer = None
        if doubtful and self._pods.synced:
            try:
                answer = await self._resources.list()
            except SomError as error:
                log.warning("kubelet's PodResources is silent", extra={"error": str(error)})
        return decide.PodView(
            synced=self._pods.synced, live_uids=live, resources=answer, own_pod=self._own_pod
        )

    async def _apply(self, seen: state.StartRecord, event: state.Event) -> bool:
        """Store the next state, then act. False: the start has moved on since it was seen."""
        start = seen.start
        key = (start.lease_id, start.number)
        record = self._record(key)
        if record is None or record.state is not seen.state:
            return False
        step = state.step(record.state, event)
        if step.state is not record.state:
            self._store.set_state(start, step.state)
            self._on_change()
        for action in step.actions:
            match action:
                case state.Action.END_BUILD:
                    if build := self._builds.get(key):
                        build.task.cancel()
                case state.Action.REVOKE:
                    await asyncio.to_thread(self._driver.revoke, start)
                    await self._forget_if_free(start)
                case state.Action.FORGET:
                    self._forget(start)
        return True

    async def _forget_if_free(self, start: seams.Start) -> None:
        building = (start.lease_id, start.number) in self._builds
        if not building and (await asyncio.to_thread(self._driver.usage, start)).free:
            self._forget(start)
            self._wake.set()

    def _forget(self, start: seams.Start) -> None:
        self._store.forget_start(start)
        self._held_since.pop((start.lease_id, start.number), None)
        self._on_change()

    async def _report_held(self) -> None:
        """Tell the admin once about memory that stays with a holder after its release."""
        now = time.monotonic()
        for finding in self.findings:
            if finding.outcome is not decide.Outcome.HELD or finding.number is None:
                continue
            key = (finding.lease_id, finding.number)
            since = self._held_since.setdefault(key, now)
            if 0 <= since < now - HELD_REPORT_AFTER_S and (record := self._record(key)):
                self._held_since[key] = now + 3600 * 24
                culprits = await asyncio.to_thread(self._driver.culprits, record.start)
                held = self._driver.usage(record.start).held_bytes
                message = (
                    f"lease {finding.lease_id} has ended, and {v1alpha1.format_bytes(held)} of it "
                    f"are still held by {', '.join(culprits) or 'a pin in the kernel'}; not offered"
                )
                await self._on_event(seams.Event("LeaseHeld", message, warning=True))

    # Reading

    def leases(self) -> list[state.Lease]:
        """All leases, oldest first, for status and metrics."""
        return self._store.leases()

    def _lease(self, lease_id: seams.LeaseId) -> state.Lease:
        lease = self._store.lease(lease_id)
        if lease is None:
            raise seams.StartRefused(f"som: lease {lease_id} was replaced meanwhile, retrying")
        return lease

    def _record(self, key: Key) -> state.StartRecord | None:
        lease = self._store.lease(key[0])
        records = lease.starts if lease else ()
        return next((record for record in records if record.start.number == key[1]), None)

    def _named_slots(self, pool: str) -> frozenset[int]:
        starts = [record.start for lease in self._store.leases() for record in lease.starts]
        return frozenset(start.slot for start in starts if start.pool == pool)

    async def run(self) -> None:
        """Reconcile whenever a lease is in doubt, and now and then; runs until cancelled."""
        last = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_EVERY_S)
            if not self._wake.is_set() and not self._in_doubt():
                if time.monotonic() - last < RECONCILE_EVERY_S:
                    continue
            self._wake.clear()
            await self.reconcile()
            last = time.monotonic()

    def _in_doubt(self) -> bool:
        """Whether a pod has gone whose lease stands, or memory waits to become free."""
        live = _live_uids(self._pods)
        return any(
            (lease.owner is not None and not lease.ended and lease.owner.uid not in live)
            or any(record.state is state.State.RELEASING for record in lease.starts)
            for lease in self._store.leases()
        )

    async def close(self) -> None:
        """End all builds; what they took is freed, what is delivered stays."""
        tasks = [build.task for build in self._builds.values()]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _live_uids(source: seams.PodSource) -> frozenset[seams.PodUid]:
    return frozenset(pod.uid for pod in source.pods() if not pod.terminal)


def _numa_node(ticket: seams.Ticket) -> int:
    return int(ticket.removeprefix("n").partition("-")[0])


def _only(tickets: Sequence[seams.Ticket]) -> seams.Ticket:
    if len(tickets) != 1:
        raise seams.StartRefused(
            f"som: a container holds exactly one som.io/ticket, not {len(tickets)}; leave the "
            "ticket to admission"
        )
    return tickets[0]

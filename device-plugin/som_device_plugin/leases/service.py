"""Kubelet's calls, answered: names leases at admission, makes them real before each start."""

import asyncio
import logging
import secrets
import weakref
from collections.abc import Iterable, Sequence
from typing import Final

from som_api import v1alpha1
from som_api.run import clock
from som_device_plugin import changes, metrics, pools, seams
from som_device_plugin.leases import binding, keeper, reconciler, spares, starts, state, witnesses

log = logging.getLogger(__name__)

TICKETS_PER_NODE: Final = 256
"""Containers with som memory per NUMA node; kubelet hands out one ticket to each."""

PRE_START_LIMIT_S: Final = 25.0
"""Kubelet gives PreStartContainer 30 s (deviceplugin/v1beta1/constants.go)."""

GRACE_S: Final = 2.0
"""For the steps before and after a build; beyond it kubelet would tell of its own time-out only."""


class TicketService:
    """Implements seams.TicketService."""

    def __init__(
        self,
        *,
        own_starts: starts.Starts,
        own_reconciler: reconciler.Reconciler,
        own_keeper: keeper.Keeper,
        own_pools: pools.Pools,
        own_witnesses: witnesses.Witnesses,
        numa_nodes: Iterable[int],
        reporter: seams.Reporter,
        changed: changes.Changes,
        time: clock.Clock,
    ) -> None:
        self._starts = own_starts
        self._store = own_starts.leases
        self._reconciler = own_reconciler
        self._keeper = own_keeper
        self._pools = own_pools
        self._witnesses = own_witnesses
        self._tickets = [
            seams.Ticket(f"n{node}-{number}")
            for node in numa_nodes
            for number in range(TICKETS_PER_NODE)
        ]
        self._last_use: dict[seams.Ticket, int] = {}
        self._reporter = reporter
        self._time = time
        self._locks: weakref.WeakValueDictionary[seams.LeaseId, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._changed = changed.listen()

    def devices(self) -> list[seams.TicketDevice]:
        """Free tickets are healthy while a pool can serve; those in use always are."""
        self._changed.clear()
        in_use = {lease.ticket for lease in self._store.leases() if not lease.ended}
        is_ready = self._pools.ready
        return [
            seams.TicketDevice(ticket, is_ready or ticket in in_use, _numa_node(ticket))
            for ticket in self._tickets
        ]

    async def changed(self) -> None:
        """Returns when `devices` may have changed since it was last asked."""
        await self._changed.wait()

    def preferred(
        self,
        *,
        available: Sequence[seams.Ticket],
        must_include: Sequence[seams.Ticket],
        size: int,
    ) -> list[seams.Ticket]:
        """What must be, then those unused longest, and of these none whose lease has memory."""
        busy = {lease.ticket for lease in self._store.leases() if lease.starts}
        free = [t for t in available if t not in busy and t not in must_include]
        free.sort(key=lambda ticket: self._last_use.get(ticket, 0))
        return [*must_include, *free][:size]

    async def allocate(self, tickets: Sequence[seams.Ticket]) -> seams.LeaseId:
        """Name a new lease for the ticket: one durable write."""
        with metrics.ALLOCATE_SECONDS.time():
            ticket = _only(tickets)
            lease_id = seams.LeaseId(secrets.token_hex(8))
            self._store.name(lease_id=lease_id, ticket=ticket)
            self._last_use[ticket] = 1 + max(self._last_use.values(), default=0)
        log.info("lease named", extra={"lease": lease_id, "ticket": ticket})
        return lease_id

    async def pre_start(self, tickets: Sequence[seams.Ticket]) -> None:
        """Make the ticket's lease real, within kubelet's patience."""
        with metrics.PRE_START_SECONDS.time():
            ticket = _only(tickets)
            leases = self._store.of_ticket(ticket)
            if not leases:
                raise seams.StartRefused(
                    f"som: this node's agent has no lease for ticket {ticket}: its store was lost; "
                    "delete the pod; its successor gets a lease",
                    reason="LeaseUnknown",
                )
            lease_id = leases[-1].lease_id
            deadline_s = self._time.monotonic() + PRE_START_LIMIT_S
            # Kubelet's retry waits for its predecessor, else it would look like a restart.
            lock = self._locks.setdefault(lease_id, asyncio.Lock())
            try:
                async with self._time.timeout(PRE_START_LIMIT_S + GRACE_S), lock:
                    with self._keeper.container_waits():
                        await self._pre_start(lease_id, deadline_s)
            except TimeoutError:
                raise seams.StartRefused(
                    "som: this node's agent is busy with its pools, retrying, no action needed",
                    reason="PoolsBusy",
                ) from None

    async def _pre_start(self, lease_id: seams.LeaseId, deadline_s: float) -> None:
        lease = self._lease(lease_id)
        lease = await self._bind(lease)
        record = lease.live
        if record is not None and record.state is state.State.DELIVERED:
            keeps = lease.keep_on_restart and await self._starts.intact(record)
            event = state.Event.USED if keeps else state.Event.RESTARTED
            await self._starts.apply(record.start, event, seen=record.state)
            record = record if keeps else None
        if record is None:
            record = await self._begin(self._lease(lease_id))
        await self._starts.built(record.start, deadline_s=deadline_s)
        if not await self._starts.deliver(record.start):
            raise seams.StartRefused(
                "som: the lease was taken away while it was built, retrying", reason="LeaseEnded"
            )
        log.info("lease delivered", extra={"lease": lease_id, "owner": str(lease.owner)})

    async def _bind(self, lease: state.Lease) -> state.Lease:
        """The lease with its owner, who is looked for until he has had a start."""
        try:
            if lease.last_number == 0:
                answer = await self._witnesses.resources.list()
                bound = binding.bind(lease, self._store.leases(), answer, self._witnesses.pods)
                self._store.bind(bound)
                lease = self._lease(lease.lease_id)
                if lease.owner != bound.owner:
                    raise seams.StartRefused(
                        f"som: ticket {lease.ticket} belonged to {lease.owner}, which may still "
                        "run, retrying",
                        reason="TicketHeld",
                    )
            binding.refuse_two_owners(lease, self._store.leases(), self._witnesses.pods)
        except binding.TwoOwners as fault:
            await self._reporter.event(seams.Event("TicketFault", str(fault), warning=True))
            raise
        return lease

    async def _begin(self, lease: state.Lease) -> state.StartRecord:
        assert lease.request is not None
        unit, size_bytes = lease.request.unit, lease.request.size_bytes
        node = _numa_node(lease.ticket)
        if lease.keep_s and not lease.last_number:
            # Only what is known to have lost its owner can be this one's.
            await self._reconciler.reconcile()
        pool = self._pools.for_unit(unit)
        if pool and (record := await self._keeper.adopt(lease, pool, node=node)):
            return record
        if pool is None or self._starts.free_bytes(pool) < size_bytes:
            await self._reconciler.reconcile()
            await self._keeper.make_room(unit, size_bytes)
        pool = self._pools.for_unit(unit)
        lease = self._lease(lease.lease_id)
        if pool is None:
            raise seams.StartRefused(
                f"som: no pool of this node serves som.io/{unit} now, retrying", reason="NoPool"
            )
        if self._starts.free_bytes(pool) < size_bytes:
            raise seams.StartRefused(self._shortage(pool, size_bytes), reason="PoolFull")
        return self._starts.begin(lease, pool, preferred_node=node)

    def _shortage(self, pool: pools.ActivePool, size_bytes: int) -> str:
        holders = [
            f"{lease.owner} {v1alpha1.format_bytes(record.start.size_bytes)}"
            + (" (released, still held)" if record.state is state.State.RELEASING else "")
            for lease in self._store.leases()
            for record in lease.starts
            if record.start.pool == pool.name and not lease.is_spare
        ]
        shown = ", ".join(holders[:8]) + (f" and {len(holders) - 8} more" if holders[8:] else "")
        spare = spares.total_bytes(self._store.leases(), pool.name)
        free_bytes = max(self._starts.free_bytes(pool) + spare, 0)
        return (
            f"som: needs {v1alpha1.format_bytes(size_bytes)}, but pool {pool.name} has "
            f"{v1alpha1.format_bytes(free_bytes)} free of "
            f"{v1alpha1.format_bytes(pool.capacity_bytes)}; held by: {shown or 'nobody'}; retrying"
        )

    def _lease(self, lease_id: seams.LeaseId) -> state.Lease:
        lease = self._store.lease(lease_id)
        if lease is None or lease.ended:
            raise seams.StartRefused(
                f"som: lease {lease_id} has ended or was replaced meanwhile, retrying",
                reason="LeaseEnded",
            )
        return lease


def _numa_node(ticket: seams.Ticket) -> int:
    return int(ticket.removeprefix("n").partition("-")[0])


def _only(tickets: Sequence[seams.Ticket]) -> seams.Ticket:
    if len(tickets) != 1:
        raise seams.StartRefused(
            f"som: a container holds exactly one som.io/ticket, not {len(tickets)}; leave the "
            "ticket to admission",
            reason="TicketCount",
        )
    return tickets[0]

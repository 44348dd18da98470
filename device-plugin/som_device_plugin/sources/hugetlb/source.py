"""The HugeTLB source: huge pages of the kernel, added on top of what others have.

Each step (at most 1 GiB) takes the counters' lock, settles whose the pages are, changes one NUMA
node, and puts what came into the pool's hold. So a step leaves nothing half done that the next
one, of this process or of its successor, would not find.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import hugepages
from som_device_plugin.sources import turn
from som_device_plugin.sources.hugetlb import accounts, counters, plan, records

_GIGANTIC_LIMIT_S: Final = 60.0

HoldOf = Callable[[str, int], seams.Hold]
"""(pool, its page size) -> its hold."""


@dataclasses.dataclass
class _Order:
    """A pool's order as it is carried out: `short` names the nodes that gave out, and why.

    `scattered`: a node whose free memory has to be moved together; `compacted`: those where it was,
    and which have given nothing since.
    """

    pool: str
    driver: str
    page_bytes: int
    target_bytes: int
    floor_bytes: int
    deadline_s: float
    short: dict[int, str] = dataclasses.field(default_factory=dict)
    scattered: int | None = None
    compacted: set[int] = dataclasses.field(default_factory=set)

    @property
    def step_pages(self) -> int:
        return max(plan.GIB // self.page_bytes, 1)

    @property
    def reason(self) -> str:
        return "; ".join(dict.fromkeys(self.short.values()))


class HugeTLBSource:
    """Implements `seams.Source`: pools of huge pages, kept from everybody else by a hold each.

    `hold_of`: name of a driver -> what finds the hold of one of its pools, made or not yet.

    Calls may overlap: they take turns between steps of at most 1 GiB. Every write to the kernel
    follows a durable intention, so the process may die anywhere.
    """

    def __init__(
        self,
        page_records: records.PageRecords,
        page_counters: counters.Counters,
        *,
        hold_of: Mapping[str, HoldOf],
    ) -> None:
        self._records = page_records
        self._counters = page_counters
        self._hold_of = hold_of
        self._orders: dict[str, _Order] = {}
        self._told: set[str] = set()
        self._in_thread = turn.Turn().take

    async def reserved(self, pool: str) -> seams.PoolReserved:
        """See `seams.Source`."""
        return await self._in_thread(self._reserved, pool)

    async def apply(
        self,
        pool: v1alpha1.NodePool,
        *,
        held_bytes: int,
        on_progress: Callable[[seams.PoolReserved], None],
    ) -> seams.PoolReserved:
        """See `seams.Source`. The split over the NUMA nodes is even.

        Raises:
            SourceError: also when growth passes the guard, overcommit is on, or the page size
                has changed.
        """
        order = _Order(
            pool=pool.name,
            driver=pool.driver,
            page_bytes=pool.source.page_bytes,
            target_bytes=pool.capacity,
            floor_bytes=held_bytes,
            deadline_s=time.monotonic() + _GIGANTIC_LIMIT_S,
        )
        await self._in_thread(self._begin, order)
        while await self._in_thread(self._step, order):
            on_progress(await self.reserved(pool.name))
            if (node := order.scattered) is not None:
                # Minutes on a large node: nobody else may have to wait for it.
                await asyncio.to_thread(hugepages.compact, node)
                order.scattered = None
                order.compacted.add(node)
        return await self.reserved(pool.name)

    async def release(self, pool: str) -> None:
        """See `seams.Source`."""
        await self._in_thread(self._release, pool)

    async def check(self) -> tuple[list[seams.Event], list[seams.PoolReserved]]:
        """See `seams.Source`: the counters that others wrote are repaired, the holds refilled."""
        return await self._in_thread(self._check)

    async def refill(self, pool: str) -> seams.PoolReserved:
        """See `seams.Source`."""
        return await self._in_thread(self._refill, pool)

    def _refill(self, pool: str) -> seams.PoolReserved:
        with self._counters.locked():
            if pool in self._records.pools():
                self._fill(pool)
        return self._reserved(pool)

    def _reserved(self, pool: str) -> seams.PoolReserved:
        page_bytes = self._records.pools().get(pool)
        if page_bytes is None:
            return seams.PoolReserved(pool)
        pages = self._records.pages(pool)
        with self._hold(pool).locked() as has:
            capacity_bytes = has.free_bytes + has.held_bytes
        order = self._orders.get(pool)
        pages_bytes = sum(pages.values()) * page_bytes
        shortfall = plan.shortfall(
            capacity_bytes=capacity_bytes,
            target_bytes=order.target_bytes if order else pages_bytes,
            pages_bytes=pages_bytes,
            reason=order.reason if order else "",
        )
        return seams.PoolReserved(
            pool=pool,
            capacity_bytes=capacity_bytes,
            free_bytes=has.free_bytes,
            node_bytes={node: count * page_bytes for node, count in pages.items()},
            shortfall=shortfall,
            page_bytes=page_bytes,
            whole_free_bytes=has.whole_free_bytes,
        )

    def _begin(self, order: _Order) -> None:
        """Everything that can be refused is refused here, before anything is taken."""
        page_bytes, name = order.page_bytes, plan.human_bytes(order.page_bytes)
        known = self._records.pools().get(order.pool, page_bytes)
        if known != page_bytes:
            raise turn.SourceError(
                f"pool {order.pool} has huge pages of {plan.human_bytes(known)}: the page size "
                "cannot change; remove the pool first, or make another"
            )
        driver = self._records.driver(order.pool) or order.driver
        if driver != order.driver:
            raise turn.SourceError(
                f"pool {order.pool} is served by driver {driver}: the driver cannot change; "
                "remove the pool first, or make another"
            )
        if page_bytes not in hugepages.page_sizes():
            raise turn.SourceError(
                f"this machine has no huge pages of {name}: its processor or kernel lacks them; "
                "use another pageSize"
            )
        if overcommit := _overcommit(page_bytes):
            raise turn.SourceError(f"pool {order.pool} is not reserved: {overcommit}")
        with self._counters.locked():
            if order.pool not in self._records.pools():
                self._find_again(order)
            self._counters.settle(page_bytes)
            growth = order.target_bytes // page_bytes - sum(self._pages(order.pool).values())
            room = self._counters.room_pages(page_bytes)
            if growth > room:
                order.short = {-1: plan.GUARDED}
                self._orders[order.pool] = order
                memory = hugepages.memory()
                why = self._counters.guard.refusal(
                    available_bytes=memory.available_bytes,
                    total_bytes=memory.total_bytes,
                    largest_bytes=(order.target_bytes // page_bytes - growth + room) * page_bytes,
                )
                size = plan.human_bytes(order.target_bytes)
                raise turn.SourceError(f"pool {order.pool} of {size}: {why}")
            none: Final = dict.fromkeys(hugepages.nodes(), 0)
            self._records.add(order.pool, page_bytes, none, driver=order.driver)
            self._orders[order.pool] = order
            self._fill(order.pool)

    def _find_again(self, order: _Order) -> None:
        """Know the pages that the kernel shows to be the pool's although the store was lost.

        The hold does not say on which nodes; the split that was ordered is even.
        """
        pool, page_bytes = order.pool, order.page_bytes
        with self._hold_of[order.driver](pool, page_bytes).locked() as has:
            pages = (has.free_bytes + has.held_bytes) // page_bytes
        if pages:
            strangers = self._records.ledger(page_bytes).strangers or {
                node: hugepages.node_counts(page_bytes, node).persistent
                for node in hugepages.nodes()
            }
            homes = {pool: plan.even_shares(pages, strangers)}
            found = accounts.place({pool: pages}, homes, strangers)
            self._records.add(pool, page_bytes, found[pool], driver=order.driver)

    def _step(self, order: _Order) -> bool:
        """One step towards the order; False when there is no more to do."""
        with self._counters.locked():
            self._counters.settle(order.page_bytes)
            target = order.target_bytes // order.page_bytes
            pages = self._pages(order.pool)
            if sum(pages.values()) < target:
                went_on = self._grow(order, target, pages)
            else:
                went_on = self._shrink(order, target, pages)
            if went_on:
                self._fill(order.pool)
            return went_on

    def _grow(self, order: _Order, target: int, pages: Mapping[int, int]) -> bool:
        step = plan.next_growth(
            target=target, ours=pages, exhausted=order.short.keys(), most=order.step_pages
        )
        if step is None:
            return False
        if order.page_bytes >= plan.GIB and time.monotonic() > order.deadline_s:
            order.short[step.node] = (
                f"no more was found in {_GIGANTIC_LIMIT_S:.0f} s on NUMA node {step.node}; "
                "order 1Gi pages soon after boot, or use pageSize 2Mi"
            )
            return True
        asked = min(step.pages, self._counters.room_pages(order.page_bytes))
        if asked == 0:
            order.short.update(dict.fromkeys(pages, plan.GUARDED))
            return False
        got = self._counters.change(order.pool, order.page_bytes, step.node, asked)
        if got:
            order.compacted.discard(step.node)
        if not got and step.node in order.compacted:
            order.short[step.node] = f"no contiguous memory on NUMA node {step.node}"
        elif got < asked:
            order.scattered = step.node
        return True

    def _shrink(self, order: _Order, target: int, pages: Mapping[int, int]) -> bool:
        page_bytes = order.page_bytes
        pool_hold = self._hold(order.pool)
        with pool_hold.locked() as has:
            step = plan.next_shrink(
                target=max(target, -(-max(order.floor_bytes, has.held_bytes) // page_bytes)),
                ours=pages,
                free=pool_hold.free_pages(),
                hold=has.free_bytes // page_bytes,
                most=order.step_pages,
            )
            if step is None:
                return False
            pool_hold.shrink(has.free_bytes - step.pages * page_bytes, node=step.node)
        self._counters.change(order.pool, page_bytes, step.node, -step.pages)
        return True

    def _release(self, pool: str) -> None:
        page_bytes = self._records.pools().get(pool)
        if page_bytes is None:
            return
        pool_hold = self._hold(pool)
        with self._counters.locked():
            self._counters.settle(page_bytes)
            with pool_hold.locked() as has:
                if has.held_bytes:
                    raise turn.SourceError(
                        f"pool {pool} cannot be given back: {plan.human_bytes(has.held_bytes)} are "
                        "held by containers; end them first"
                    )
                if has.free_bytes:
                    pool_hold.shrink(0)
            for node, pages in self._records.pages(pool).items():
                self._counters.change(pool, page_bytes, node, -pages)
            pool_hold.remove()
            self._records.forget(pool)
            self._orders.pop(pool, None)

    def _check(self) -> tuple[list[seams.Event], list[seams.PoolReserved]]:
        with self._counters.locked():
            pools = self._records.pools()
            warnings = set()
            for page_bytes in sorted(set(pools.values())):
                self._counters.settle(page_bytes)
                warnings.add(_overcommit(page_bytes))
            for pool in pools:
                # Whose order this keeps from being carried out, says so.
                with contextlib.suppress(seams.DriverNotLoaded):
                    self._fill(pool)
            events = self._counters.take_events()
        warnings.discard("")
        events += [
            seams.Event(reason="HugePagesOvercommit", message=message, warning=True)
            for message in sorted(warnings - self._told)
        ]
        self._told = warnings
        return events, [self._reserved(pool) for pool in pools]

    def _fill(self, pool: str) -> None:
        """Make the hold as long as it should be."""
        page_bytes = self._records.pools()[pool]
        pages = self._records.pages(pool)
        self._hold(pool).fill({node: count * page_bytes for node, count in pages.items()})

    def _hold(self, pool: str) -> seams.Hold:
        """Of a pool on record."""
        driver = self._records.driver(pool)
        assert driver is not None
        return self._hold_of[driver](pool, self._records.pools()[pool])

    def _pages(self, pool: str) -> dict[int, int]:
        return dict.fromkeys(hugepages.nodes(), 0) | self._records.pages(pool)


def _overcommit(page_bytes: int) -> str:
    """What is wrong with overcommit and its cure, or ""."""
    pages = hugepages.machine_counts(page_bytes).overcommit
    if not pages:
        return ""
    return (
        f"nr_overcommit_hugepages of {plan.human_bytes(page_bytes)} pages is {pages}: the kernel "
        "would take memory past every guard; set vm.nr_overcommit_hugepages=0, also in "
        "/etc/sysctl.d"
    )

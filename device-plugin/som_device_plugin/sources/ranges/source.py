"""Pools of physical ranges in som.ko: one source over three kinds of supply.

The pool in the kernel is all there is to know about its memory, so an agent that starts has nothing
to find. What the kernel does not know is in the records: what has to be undone once a range is no
longer in a pool. `Supply.settle` compares the two, before and after each act, so that it does not
matter at which step an agent died.
"""

import contextlib
import dataclasses
import errno
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final, NoReturn, Protocol

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import iomem, modules
from som_device_plugin.sources import turn
from som_device_plugin.sources.hugetlb import plan as pages
from som_device_plugin.sources.ranges import plan

log = logging.getLogger(__name__)

FIRST_GOOD_KERNELS: Final = "6.12.118, 7.3.4 and 7.4"
"""As in driver/known_good.h."""

MOST_MOVED_BYTES: Final = 64 << 20
"""In one step: a moment, after which others have their turn."""


class Supply(Protocol):
    """What is different about one kind of source. Each call raises SomError with the cure."""

    def look(self, order: v1alpha1.NodePool, spans: Sequence[seams.Span]) -> plan.Offer:
        """What the node has for `order` beside `spans`. Changes nothing.

        Raises:
            SourceError: the order cannot be carried out.
        """

    def prepare(self, pool: str, piece: plan.Piece) -> str:
        """Record what adding `piece` will change, and make it free; or why that must not be."""

    def give(self) -> None:
        """Record what giving back will change, and do what it takes before that."""

    def failed(self, within: Sequence[iomem.Range]) -> Sequence[iomem.Range]:
        """What of these ranges the node knows to have failed, and som.ko may not."""

    def settle(self, pool: str, spans: Sequence[seams.Span]) -> None:
        """Make everything on record of `pool` that is in no span as it was before."""


@dataclasses.dataclass
class _Order:
    """A pool's order as it is carried out.

    `refused`: starts of pieces that could not be had, and why; `kept`: of spans that could not be
    given back. `had_bytes`: what the pool had when this process last changed it.
    """

    pool: v1alpha1.NodePool
    floor_bytes: int
    offer: plan.Offer | None = None
    refused: dict[int, str] = dataclasses.field(default_factory=dict)
    kept: set[int] = dataclasses.field(default_factory=set)
    had_bytes: int = 0


class RangeSource:
    """Implements `seams.Source` on pools that live in som.ko.

    Args:
        hold_of: the pool's hold, by its name.
    """

    def __init__(self, supply: Supply, *, hold_of: Callable[[str], seams.RangeHold]) -> None:
        self._supply = supply
        self._hold_of = hold_of
        self._orders: dict[str, _Order] = {}
        self._told: set[int] = set()
        self._in_thread = turn.Turn().take

    async def reserved(self, pool: str) -> seams.PoolReserved:
        """See `seams.Source`; without som.ko a pool has nothing."""
        return await self._in_thread(self._reserved, pool)

    async def apply(
        self,
        pool: v1alpha1.NodePool,
        *,
        held_bytes: int,
        on_progress: Callable[[seams.PoolReserved], None],
    ) -> seams.PoolReserved:
        """See `seams.Source`; a step is one span.

        Raises:
            SourceError: KernelUnsafe, or the order cannot be carried out on this node.
            DriverNotLoaded: som.ko is missing, or of another version.
        """
        order = _Order(pool, floor_bytes=held_bytes)
        await self._in_thread(self._begin, order)
        while await self._in_thread(self._step, order):
            on_progress(await self.reserved(pool.name))
        return await self.reserved(pool.name)

    async def release(self, pool: str) -> None:
        """See `seams.Source`."""
        await self._in_thread(self._release, pool)

    async def refill(self, pool: str) -> seams.PoolReserved:
        """See `seams.Source`: som.ko takes back itself what leases let go."""
        return await self.reserved(pool)

    async def check(self) -> tuple[list[seams.Event], list[seams.PoolReserved]]:
        """See `seams.Source`: pools that som.ko no longer has are told."""
        return await self._in_thread(self._check)

    def _spans(self, pool: str) -> Sequence[seams.Span]:
        """Without som.ko there is no pool: it cannot be unloaded while it has one."""
        try:
            return self._hold_of(pool).spans()
        except seams.DriverNotLoaded:
            return ()

    def _reserved(self, pool: str) -> seams.PoolReserved:
        spans = self._spans(pool)
        has = self._hold_of(pool).holding() if spans else seams.Holding(0, 0)
        capacity_bytes = has.free_bytes + has.held_bytes
        shortfall = ""
        if order := self._orders.get(pool):
            shortfall = pages.shortfall(
                capacity_bytes=capacity_bytes,
                target_bytes=order.pool.capacity,
                pages_bytes=plan.total_bytes(spans),
                reason=_why_short(order, has),
            )
        return seams.PoolReserved(
            pool=pool,
            capacity_bytes=capacity_bytes,
            free_bytes=has.free_bytes,
            node_bytes={
                node: plan.total_bytes([span for span in spans if span.node == node])
                for node in sorted({span.node for span in spans})
            },
            shortfall=shortfall,
            page_bytes=v1alpha1.CHUNK_BYTES if spans else 0,
            whole_free_bytes=has.whole_free_bytes,
        )

    def _begin(self, order: _Order) -> None:
        """Everything that can be refused is refused here, before anything is taken."""
        if wrong := modules.wrong_som():
            self._give_way(order.pool.name, wrong)
        spans = self._hold_of(order.pool.name).spans()
        self._supply.settle(order.pool.name, spans)
        order.offer = self._supply.look(order.pool, spans)
        order.had_bytes = plan.total_bytes(spans)
        self._orders[order.pool.name] = order

    def _give_way(self, pool: str, why: str) -> NoReturn:
        """The kernel lets a module be replaced only when there is no pool in it."""
        with contextlib.suppress(turn.SourceError, seams.RangeRefused):
            self._release(pool)
        raise seams.DriverNotLoaded(why)

    def _step(self, order: _Order) -> bool:
        """One step towards the order; False when there is no more to do."""
        hold = self._hold_of(order.pool.name)
        spans = hold.spans()
        went_on = self._grow(order, hold, spans) or self._shrink(order, hold, spans)
        if went_on:
            after = hold.spans()
            self._supply.settle(order.pool.name, after)
            order.had_bytes = plan.total_bytes(after)
        return went_on

    def _grow(self, order: _Order, hold: seams.RangeHold, spans: Sequence[seams.Span]) -> bool:
        pool = order.pool
        if order.offer is None:
            order.offer = self._supply.look(pool, spans)
        piece = plan.next_piece(
            target_bytes=pool.capacity, spans=spans, offer=order.offer, refused=order.refused
        )
        if piece is None:
            return False
        if why := self._supply.prepare(pool.name, piece):
            order.refused[piece.start] = why
            return True
        try:
            # som.ko forgets when it is loaded again, and the pool is gone with it.
            self._tell_failed(hold, [piece], known=())
            hold.add(piece.start, piece.size_bytes, mapping=pool.mapping)
        except seams.RangeRefused as refused:
            if refused.errno == errno.ENOPKG:
                self._supply.settle(pool.name, spans)
                raise turn.SourceError(
                    f"pool {pool.name}: on this kernel any user could crash the node with memory "
                    f"of this source and mapping Bare; the first good versions are "
                    f"{FIRST_GOOD_KERNELS}; mapping Pinnable and source hugeTLB work on all",
                    reason="KernelUnsafe",
                ) from refused
            order.refused[piece.start] = plan.why_refused(piece, order.offer, refused)
        return True

    def _tell_failed(
        self, hold: seams.RangeHold, within: Sequence[iomem.Range], *, known: Collection[int]
    ) -> None:
        """What is `known` not again: each time takes the memory around it from page tables."""
        for bad in self._supply.failed(within):
            first = bad.start - bad.start % v1alpha1.CHUNK_BYTES
            for address in range(first, bad.end, v1alpha1.CHUNK_BYTES):
                if address not in known:
                    hold.failed(address)
                    self._told.add(address)

    def _shrink(self, order: _Order, hold: seams.RangeHold, spans: Sequence[seams.Span]) -> bool:
        span = plan.next_removal(
            target_bytes=order.pool.capacity,
            floor_bytes=_floor_bytes(order, hold, spans),
            spans=spans,
            kept=order.kept,
        )
        if span is None:
            return self._empty(order, hold, spans)
        self._supply.give()
        try:
            hold.remove(span.start)
        except seams.RangeRefused as refused:
            # A lease has begun to use it, or the kernel does not take carved memory back.
            log.warning("span kept", extra={"pool": order.pool.name, "error": str(refused)})
            order.kept.add(span.start)
        order.offer = None
        return True

    def _empty(self, order: _Order, hold: seams.RangeHold, spans: Sequence[seams.Span]) -> bool:
        """Move something out of a span, so that one of the next steps can give it back."""
        span = plan.next_to_empty(
            target_bytes=order.pool.capacity,
            floor_bytes=_floor_bytes(order, hold, spans),
            spans=spans,
            kept=order.kept,
        )
        if span is None:
            return False
        try:
            hold.empty(span, most_bytes=MOST_MOVED_BYTES)
        except seams.RangeRefused as refused:
            log.info("span not emptied", extra={"pool": order.pool.name, "error": str(refused)})
        if any(
            now.start == span.start and now.held_bytes >= span.held_bytes for now in hold.spans()
        ):
            # What is left stays, or others are as fast.
            order.kept.add(span.start)
        return True

    def _release(self, pool: str) -> None:
        # Without som.ko there is nothing; a pool without memory would keep it loaded.
        with contextlib.suppress(seams.DriverNotLoaded):
            hold = self._hold_of(pool)
            if held_bytes := hold.holding().held_bytes:
                raise turn.SourceError(
                    f"pool {pool} cannot be given back: {pages.human_bytes(held_bytes)} are "
                    "held by containers; end them first"
                )
            if hold.spans():
                self._supply.give()
            hold.destroy()
        self._supply.settle(pool, self._spans(pool))
        self._orders.pop(pool, None)

    def _check(self) -> tuple[list[seams.Event], list[seams.PoolReserved]]:
        events = []
        for name, order in self._orders.items():
            spans = self._spans(name)
            self._supply.settle(name, spans)
            extents = [plan.extent(span) for span in spans]
            self._tell_failed(self._hold_of(name), extents, known=self._told)
            lost_bytes = order.had_bytes - plan.total_bytes(spans)
            if lost_bytes > 0:
                order.had_bytes -= lost_bytes
                order.offer = None
                events.append(_lost(name, lost_bytes))
        return events, [self._reserved(name) for name in self._orders]


def _floor_bytes(order: _Order, hold: seams.RangeHold, spans: Sequence[seams.Span]) -> int:
    return max(order.floor_bytes, hold.holding().held_bytes if spans else 0)


def _lost(pool: str, lost_bytes: int) -> seams.Event:
    return seams.Event(
        reason="PoolLost",
        message=f"som.ko no longer has {pages.human_bytes(lost_bytes)} of pool {pool}: another "
        "program has removed them, or loaded the module again. The agent adds them again",
        warning=True,
    )


def _why_short(order: _Order, has: seams.Holding) -> str:
    if has.bad_bytes:
        return f"{pages.human_bytes(has.bad_bytes)} have failed; the kernel's log says where"
    return plan.why_short(order.offer, order.refused) if order.offer else ""

"""Supply of the source Carved: System RAM that goes off line, and is put on line again."""

from collections.abc import Sequence

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import hugepages, iomem, memory_blocks
from som_device_plugin.sources import turn
from som_device_plugin.sources.hugetlb import plan as pages
from som_device_plugin.sources.ranges import plan, records


class Carved:
    """Implements `source.Supply`. The split over the NUMA nodes is even.

    What is in zone Movable is tried first, then what is least used.
    """

    def __init__(self, range_records: records.RangeRecords, *, guard: pages.Guard) -> None:
        self._records = range_records
        self._guard = guard

    def look(self, order: v1alpha1.NodePool, spans: Sequence[seams.Span]) -> plan.Offer:
        """See `source.Supply`: refused is also what passes the guard."""
        piece_bytes = max(memory_blocks.block_bytes(), plan.GIB)
        if why := plan.carved_refusal(order, piece_bytes):
            raise turn.SourceError(why)
        growth_bytes = order.capacity - plan.total_bytes(spans)
        memory, room_bytes = hugepages.memory(), self._room_bytes()
        if growth_bytes > room_bytes:
            why = self._guard.refusal(
                available_bytes=memory.available_bytes,
                total_bytes=memory.total_bytes,
                largest_bytes=order.capacity - growth_bytes + room_bytes,
            )
            size = pages.human_bytes(order.capacity)
            raise turn.SourceError(f"pool {order.name} of {size}: {why}")
        if growth_bytes <= 0:
            return plan.Offer(pieces=(), nodes=hugepages.nodes())
        blocks = memory_blocks.blocks()
        return plan.of_blocks(
            blocks,
            piece_bytes=piece_bytes,
            nodes=hugepages.nodes(),
            used=lambda piece: memory_blocks.used_pages(piece.start, piece.size_bytes),
        )

    def prepare(self, pool: str, piece: plan.Piece) -> str:
        """See `source.Supply`."""
        if self._room_bytes() < piece.size_bytes:
            return pages.GUARDED
        blocks = memory_blocks.blocks(piece)
        self._records.add_carved(pool, [(block.start, block.zone) for block in blocks])
        return ""

    def give(self) -> None:
        """See `source.Supply`: what comes back stays off line until it goes into its own zone.

        The kernel would put what was Movable into zone Normal, and use it at once for what can
        never move again.
        """
        if (now := memory_blocks.on_adding()) != memory_blocks.OFFLINE:
            self._records.add_on_adding(now)
            memory_blocks.set_on_adding(memory_blocks.OFFLINE)

    def failed(self, _within: Sequence[iomem.Range]) -> Sequence[iomem.Range]:
        """See `source.Supply`: the kernel lets no page go that it knows to have failed."""
        return ()

    def settle(self, pool: str, spans: Sequence[seams.Span]) -> None:
        """See `source.Supply`."""
        had = [plan.extent(span) for span in spans]
        known = self._records.carved(pool)
        # Of a store that was lost, or an agent that died while another process carved for it.
        unknown = [
            (start, "")
            for each in had
            for start in range(each.start, each.end, memory_blocks.block_bytes())
            if start not in known
        ]
        if unknown:
            self._records.add_carved(pool, unknown)
        for start, zone in known.items():
            if not any(each.start <= start < each.end for each in had):
                memory_blocks.put_on_line(start, zone)
                self._records.forget_carved(start)
        if before := self._records.on_adding():
            memory_blocks.set_on_adding(before)
            self._records.forget_carved()

    def _room_bytes(self) -> int:
        memory = hugepages.memory()
        keep_bytes = self._guard.keep_bytes(total_bytes=memory.total_bytes)
        return max(memory.available_bytes - keep_bytes, 0)

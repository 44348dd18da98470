"""How a pool of physical ranges comes to its order, pure: what to add, what to give back.

A pool consists of spans in som.ko, of at most 1 GiB each and never across the border of one, so
that it can shrink by whole spans. What a node can give is an `Offer`, made by each kind of source:
from ranges and devices that the order names, in their order, or by NUMA node, evenly.
"""

import dataclasses
import errno
import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import dax, iomem, memory_blocks
from som_device_plugin.sources.hugetlb import plan

GIB: Final = plan.GIB
TRIES: Final = 16
"""How many pieces that cannot be had are tried on one NUMA node."""

_RESERVED: Final = frozenset({"Reserved", "Soft Reserved"})
_RANKS: Final = {memory_blocks.MOVABLE: 0, "DMA32": 100, "DMA": 100}
_MOST_REASONS: Final = 3
SOM: Final = "som"
"""som.ko's name in /proc/iomem."""
_OURS: Final = {SOM: "another pool"}
_SYSTEM_RAM: Final = "kmem"


@dataclasses.dataclass(frozen=True)
class Piece(iomem.Range):
    """What becomes one span: of a device, where one has to be unbound for it."""

    node: int = -1
    device: str = ""

    def first(self, size_bytes: int) -> "Piece":
        """The piece, or so much of it."""
        return dataclasses.replace(self, end=min(self.end, self.start + size_bytes))


@dataclasses.dataclass(frozen=True)
class Offer:
    """What can be added, the best first, and why that is not more.

    `nodes`: the pool's capacity is split evenly over them; none: it follows the pieces' order.
    """

    pieces: tuple[Piece, ...]
    lacking: tuple[str, ...] = ()
    nodes: tuple[int, ...] = ()


def extent(span: seams.Span) -> iomem.Range:
    """Where the span is."""
    return iomem.Range(span.start, span.start + span.size_bytes)


def total_bytes(spans: Sequence[seams.Span]) -> int:
    """What a pool of these spans has."""
    return sum(span.size_bytes for span in spans if not span.is_leaving)


def next_piece(
    *,
    target_bytes: int,
    spans: Sequence[seams.Span],
    offer: Offer,
    refused: Mapping[int, str],
) -> Piece | None:
    """The next piece to add, or None: reached, or there is no more.

    Args:
        refused: starts of pieces that could not be had, and why.
    """
    missing_bytes = target_bytes - total_bytes(spans)
    had = [extent(span) for span in spans]
    left = [
        piece
        for piece in offer.pieces
        if piece.start not in refused and not any(piece.overlaps(each) for each in had)
    ]
    if missing_bytes <= 0 or not left:
        return None
    if not offer.nodes:
        return left[0].first(missing_bytes)
    whole_bytes = left[0].size_bytes
    has = {
        node: total_bytes([span for span in spans if span.node == node]) // whole_bytes
        for node in offer.nodes
    }
    given_out = {
        node
        for node in has
        if not any(piece.node == node for piece in left)
        or sum(piece.node == node and piece.start in refused for piece in offer.pieces) >= TRIES
    }
    nodes = _next_nodes(target_bytes // whole_bytes, has, given_out)
    return next((piece for piece in left if piece.node in nodes), None)


def _next_nodes(target: int, has: Mapping[int, int], given_out: Collection[int]) -> Collection[int]:
    """Which NUMA nodes may give the next piece.

    As with huge pages, a node that falls short of its even share is not made up for by others.
    Pieces that do not divide evenly come from any.
    """
    each, rest = divmod(target, len(has))
    lacking = {node: each - has[node] for node in has if node not in given_out and has[node] < each}
    if lacking:
        return {max(lacking, key=lambda node: (lacking[node], -node))}
    rest -= sum(max(pieces - each, 0) for pieces in has.values())
    return {node for node in has if rest > 0 and node not in given_out and has[node] == each}


def next_removal(
    *,
    target_bytes: int,
    floor_bytes: int,
    spans: Sequence[seams.Span],
    kept: Collection[int],
) -> seams.Span | None:
    """The next span to give back, or None: reached, or everything else is in use.

    One that is larger than the excess is given back where none is smaller; a part of it is added
    again then.

    Args:
        floor_bytes: what the pool must never have less than.
        kept: starts of spans that could not be given back.
    """
    has_bytes = total_bytes(spans)
    excess_bytes = has_bytes - target_bytes
    left = [span for span in spans if span.start not in kept]
    if leaving := [span for span in left if span.is_leaving]:
        return leaving[0]
    free = [
        span for span in left if not span.held_bytes and has_bytes - span.size_bytes >= floor_bytes
    ]
    if excess_bytes <= 0 or not free:
        return None
    on_node = {
        span.node: total_bytes([each for each in spans if each.node == span.node]) for span in free
    }
    fitting = [span for span in free if span.size_bytes <= excess_bytes]
    if not fitting:
        return min(free, key=lambda span: (span.size_bytes, -span.start))
    return max(fitting, key=lambda span: (on_node[span.node], span.start))


def next_to_empty(
    *,
    target_bytes: int,
    floor_bytes: int,
    spans: Sequence[seams.Span],
    kept: Collection[int],
) -> seams.Span | None:
    """The span that could be given back if what leases hold of it moved, or None.

    As `next_removal` does, one that is larger than the excess where none is smaller; of these, that
    of which least has to move.
    """
    has_bytes = total_bytes(spans)
    excess_bytes = has_bytes - target_bytes
    left = [
        span
        for span in spans
        if span.held_bytes
        and not span.is_leaving
        and span.start not in kept
        and has_bytes - span.size_bytes >= floor_bytes
    ]
    if excess_bytes <= 0 or not left:
        return None
    fitting = [span for span in left if span.size_bytes <= excess_bytes]
    smallest = min(span.size_bytes for span in left)
    others = [span for span in left if span.size_bytes == smallest]
    return min(fitting or others, key=lambda span: (span.held_bytes, -span.start))


def why_short(offer: Offer, refused: Mapping[int, str]) -> str:
    """Why there is no more, in a sentence."""
    reasons = list(dict.fromkeys([*offer.lacking, *refused.values()]))
    if not reasons and not offer.nodes:
        return "the order names no more than this"
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    return "; ".join(reasons[:_MOST_REASONS]) + more


def why_refused(piece: Piece, offer: Offer, refused: seams.RangeRefused) -> str:
    """Why som.ko did not take the piece."""
    if offer.nodes:
        return _nothing_movable(piece.node)
    if refused.errno == errno.ENXIO:
        return f"{piece} has no memory behind it"
    return str(refused)


# External


def of_ranges(
    wanted: Sequence[str], resources: Sequence[iomem.Resource], spans: Sequence[seams.Span]
) -> Offer:
    """What the ranges of an order (`0x100000000-0x17fffffff`) can give."""
    ours = [extent(span) for span in spans]
    pieces: list[Piece] = []
    lacking: list[str] = []
    for text in wanted:
        start, size_bytes = v1alpha1.parse_range(text)
        whole = iomem.Range(start, start + size_bytes)
        if why := _not_reserved(whole, resources):
            lacking.append(why)
            continue
        used = [
            each
            for each in _inside_reserved(resources)
            if each.overlaps(whole) and not any(each.overlaps(own) for own in ours)
        ]
        lacking += [f"{each} belongs to {_OURS.get(each.name, each.name)}" for each in used]
        pieces += (
            Piece(part.start, part.end)
            for free in iomem.without(whole, [*ours, *used])
            for part in _cut(free)
        )
    return Offer(tuple(pieces), tuple(lacking))


def _not_reserved(whole: iomem.Range, resources: Sequence[iomem.Resource]) -> str:
    reserved = [each for each in resources if each.name in _RESERVED]
    for part in iomem.without(whole, reserved):
        names = [each.name for each in resources if each.overlaps(part)]
        size, start = plan.human_bytes(whole.size_bytes), plan.human_bytes(whole.start)
        return (
            f"{whole} is not reserved memory: {part} is "
            f"{names[0] if names else 'nothing that the kernel knows'}; keep it from the kernel "
            f"(memmap={size.removesuffix('i')}${start.removesuffix('i')} on its command line)"
        )
    return ""


def _inside_reserved(resources: Sequence[iomem.Resource]) -> Iterator[iomem.Resource]:
    """What has a part of reserved memory already."""
    depth: int | None = None
    for resource in resources:
        if depth is not None and resource.depth > depth:
            if resource.name not in _RESERVED:
                yield resource
        else:
            depth = resource.depth if resource.name in _RESERVED else None


# DevDax


def of_devices(
    patterns: Sequence[str],
    devices: Sequence[dax.Device],
    users: Mapping[str, str],
    others: Sequence[iomem.Range],
    spans: Sequence[seams.Span],
) -> Offer:
    """What the devices can give that the patterns name, in the order of both.

    Args:
        users: device's name -> who uses it.
        others: what som.ko has for other pools.
    """
    ours = [extent(span) for span in spans]
    strange = [each for each in others if not any(each.overlaps(own) for own in ours)]
    matched: dict[str, dax.Device] = {}
    lacking = []
    for pattern in patterns:
        found = [each for each in devices if fnmatch.fnmatchcase(each.name, pattern)]
        matched |= {each.name: each for each in found}
        if not found:
            there = ", ".join(each.name for each in devices) or "none"
            lacking.append(f"no devdax device is named {pattern}; this node has: {there}")
    pieces: list[Piece] = []
    for device in matched.values():
        if why := in_the_way(device, users):
            lacking.append(why)
            continue
        if any(each.overlaps(own) for each in strange for own in device.ranges):
            lacking.append(f"{device.name} belongs to another pool")
            continue
        pieces += (
            Piece(part.start, part.end, node=device.node, device=device.name)
            for extent_of_device in device.ranges
            for free in iomem.without(extent_of_device, ours)
            for part in _cut(free)
        )
    return Offer(tuple(pieces), tuple(lacking))


def in_the_way(device: dax.Device, users: Mapping[str, str]) -> str:
    """Why this device is not taken, with the cure; "": it can be."""
    if device.driver == _SYSTEM_RAM:
        return (
            f"{device.name} is System RAM (bound to {_SYSTEM_RAM}); `daxctl reconfigure-device "
            f"--mode=devdax {device.name}` makes it a devdax device"
        )
    if device.driver not in (dax.DEVDAX, ""):
        return f"{device.name} belongs to the driver {device.driver}; unbind it first"
    if user := users.get(device.name):
        return f"{device.name} is in use by {user}; end that first"
    return ""


# Carved


def of_blocks(
    blocks: Sequence[memory_blocks.Block],
    *,
    piece_bytes: int,
    nodes: tuple[int, ...],
    used: Callable[[Piece], int],
) -> Offer:
    """Memory blocks that can be tried together: aligned, all on line, of one NUMA node.

    Those come first from which everything can be moved away, then those that are least `used`, and
    last what is below 4 GiB, because there are devices that reach no other memory.
    """
    grouped: dict[int, list[memory_blocks.Block]] = {}
    for block in blocks:
        grouped.setdefault(block.start // piece_bytes, []).append(block)
    ranked = []
    for number, group in grouped.items():
        piece = Piece(number * piece_bytes, (number + 1) * piece_bytes, node=group[0].node)
        is_whole = sum(block.size_bytes for block in group) == piece_bytes
        if is_whole and all(block.zone and block.node == piece.node for block in group):
            rank = sum(_RANKS.get(block.zone, 1) for block in group)
            ranked.append((rank, used(piece), -piece.start, piece))
    pieces = tuple(piece for *_, piece in sorted(ranked))
    empty = set(nodes) - {piece.node for piece in pieces}
    return Offer(pieces, tuple(map(_nothing_movable, sorted(empty))), nodes)


def _nothing_movable(node: int) -> str:
    return (
        f"no memory that can be moved away on NUMA node {node}; order it soon after boot, or boot "
        "with movablecore="
    )


def carved_refusal(order: v1alpha1.NodePool, piece_bytes: int) -> str:
    """Why an order cannot be carved whatever the node has; ""."""
    if not order.capacity % piece_bytes:
        return ""
    below = order.capacity - order.capacity % piece_bytes
    return (
        f"pool {order.name} of {plan.human_bytes(order.capacity)}: memory is carved in whole "
        f"pieces of {plan.human_bytes(piece_bytes)} on this node; use "
        f"{plan.human_bytes(below or piece_bytes)}"
    )


def _cut(whole: iomem.Range) -> Iterator[iomem.Range]:
    """Parts that end at each border of a GiB, of whole chunks."""
    start = -(-whole.start // v1alpha1.CHUNK_BYTES) * v1alpha1.CHUNK_BYTES
    last = whole.end // v1alpha1.CHUNK_BYTES * v1alpha1.CHUNK_BYTES
    while start < last:
        end = min((start // GIB + 1) * GIB, last)
        yield iomem.Range(start, end)
        start = end

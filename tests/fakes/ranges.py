"""The memory of a node that som.ko can have: reserved ranges, devdax devices, memory blocks.

A fake, in plain Python, of what the sources of ranges read and write; the same lives run on real
memory in the vm tier. It outlives the agent.
"""

import contextlib
import dataclasses
import errno
from collections.abc import Iterator, Sequence
from unittest import mock

from som_api import VERSION, v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import dax, hugepages, iomem, memory_blocks, modules

GIB = 2**30
MIB = 2**20
BLOCK = 128 * MIB


class Killed(BaseException):
    """The process ended here."""


@dataclasses.dataclass
class Machine:
    """`absent`: ranges with nothing behind them. `unmovable`: starts of GiB that cannot be carved.

    `pools`: pool -> its spans in som.ko; `stuck_bytes`: start of a span -> what of it cannot move.
    `bad`: what som.ko was told of, `badblocks`: what a region's list has. `comes_back`: the zone
    into which the kernel puts blocks by itself. `die_at`: how many acts this process has left,
    None: no end.
    """

    resources: list[iomem.Resource] = dataclasses.field(default_factory=list)
    absent: list[iomem.Range] = dataclasses.field(default_factory=list)
    devices: list[dax.Device] = dataclasses.field(default_factory=list)
    users: dict[str, str] = dataclasses.field(default_factory=dict)
    blocks: list[memory_blocks.Block] = dataclasses.field(default_factory=list)
    unmovable: set[int] = dataclasses.field(default_factory=set)
    comes_back: str = ""
    on_adding: str = "online"
    available_bytes: int = 1 << 50
    is_loaded: bool = True
    version: str = VERSION
    kernel_is_safe: bool = True
    pools: dict[str, list[seams.Span]] = dataclasses.field(default_factory=dict)
    promised_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    stuck_bytes: dict[int, int] = dataclasses.field(default_factory=dict)
    bad_bytes: int = 0
    bad: set[int] = dataclasses.field(default_factory=set)
    badblocks: tuple[iomem.Range, ...] = ()
    die_at: int | None = None

    def state(self) -> object:
        """What must be as before when no pool is left."""
        return self.devices[:], self.blocks[:], dict(self.pools)

    @contextlib.contextmanager
    def act(self) -> Iterator[None]:
        """One change of the kernel; the process may end before or after it."""
        for part in ("before", "after"):
            if self.die_at is not None:
                self.die_at -= 1
                if self.die_at < 0:
                    raise Killed
            if part == "before":
                yield

    def _module(self) -> v1alpha1.Module | None:
        return v1alpha1.Module(version=self.version, src_version="") if self.is_loaded else None

    def hold(self, pool: str) -> "Hold":
        return Hold(self, pool)

    def all_resources(self) -> tuple[iomem.Resource, ...]:
        taken = [
            iomem.Resource(span.start, span.start + span.size_bytes, name="som", depth=1)
            for spans in self.pools.values()
            for span in spans
        ]
        found = []
        for resource in self.resources:
            found.append(resource)
            found += [each for each in taken if each.overlaps(resource)]
        return tuple(found)

    def _unbind(self, device: dax.Device) -> None:
        with self.act():
            self._rebind(device.name, "")

    def _bind(self, name: str, driver: str) -> None:
        with self.act():
            (device,) = [each for each in self.devices if each.name == name]
            spans = [span for spans in self.pools.values() for span in spans]
            assert not any(own.overlaps(extent(s)) for own in device.ranges for s in spans), "busy"
            self._rebind(name, driver)

    def _rebind(self, name: str, driver: str) -> None:
        self.devices = [
            dataclasses.replace(each, driver=driver) if each.name == name else each
            for each in self.devices
        ]

    def _put_on_line(self, start: int, zone: str) -> None:
        with self.act():
            (block,) = [each for each in self.blocks if each.start == start]
            zone = zone or block.zone or self.comes_back
            self.replace(block, dataclasses.replace(block, online=True, zone=zone))

    def _set_on_adding(self, what: str) -> None:
        with self.act():
            self.on_adding = what

    def replace(self, before: memory_blocks.Block, after: memory_blocks.Block) -> None:
        self.blocks[self.blocks.index(before)] = after

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """In the place of sysfs and /proc."""
        with (
            mock.patch.multiple(
                dax,
                devices=lambda: tuple(self.devices),
                is_any_open=lambda: bool(self.users),
                users=lambda _devices: self.users,
                failed=lambda _device: self.badblocks,
                unbind=self._unbind,
                bind=self._bind,
            ),
            mock.patch.object(iomem, "read", self.all_resources),
            mock.patch.object(modules, "loaded", lambda _name: self._module()),
            mock.patch.multiple(
                memory_blocks,
                block_bytes=lambda: BLOCK,
                blocks=lambda within=None: tuple(
                    block
                    for block in self.blocks
                    if within is None or within.start <= block.start < within.end
                ),
                put_on_line=self._put_on_line,
                on_adding=lambda: self.on_adding,
                set_on_adding=self._set_on_adding,
                used_pages=lambda *_: 0,
            ),
            mock.patch.multiple(
                hugepages,
                nodes=lambda: tuple(sorted({block.node for block in self.blocks})),
                memory=lambda: hugepages.Memory(1 << 50, self.available_bytes, 0),
            ),
        ):
            yield


def extent(span: seams.Span) -> iomem.Range:
    return iomem.Range(span.start, span.start + span.size_bytes)


class Hold:
    """Implements `seams.RangeHold` as som.ko does, of each source."""

    def __init__(self, machine: Machine, pool: str) -> None:
        self._machine = machine
        self._pool = pool

    def spans(self) -> Sequence[seams.Span]:
        if not self._machine.is_loaded:
            raise seams.DriverNotLoaded("som.ko is not loaded")
        return tuple(sorted(self._machine.pools.get(self._pool, ()), key=lambda span: span.start))

    def holding(self) -> seams.Holding:
        held_bytes = self._machine.promised_bytes.get(self._pool, 0)
        all_bytes = sum(span.size_bytes for span in self.spans())
        bad_bytes = self._machine.bad_bytes + sum(
            2 * MIB
            for span in self.spans()
            for address in self._machine.bad
            if span.start <= address < span.start + span.size_bytes
        )
        return seams.Holding(all_bytes - held_bytes - bad_bytes, held_bytes, bad_bytes)

    def add(self, start: int, size_bytes: int, *, mapping: v1alpha1.Mapping = "Bare") -> None:
        machine, whole = self._machine, iomem.Range(start, start + size_bytes)
        with machine.act():
            if not machine.kernel_is_safe and mapping == "Bare":
                raise seams.RangeRefused("any user could crash the node", errno.ENOPKG)
            own_spans = machine.pools.setdefault(self._pool, [])
            spans = [span for spans in machine.pools.values() for span in spans]
            if any(extent(span).overlaps(whole) for span in spans):
                raise seams.RangeRefused(f"{whole} belongs to another pool", errno.EBUSY)
            if any(each.overlaps(whole) for each in machine.absent):
                raise seams.RangeRefused("nothing there", errno.ENXIO)
            for device in machine.devices:
                if device.driver and any(own.overlaps(whole) for own in device.ranges):
                    raise seams.RangeRefused(f"{device.name} has a driver", errno.EBUSY)
            node = self._node(whole)
            own_spans.append(seams.Span(start, size_bytes, node, held_bytes=0))

    def _node(self, whole: iomem.Range) -> int:
        blocks = [block for block in self._machine.blocks if whole.start <= block.start < whole.end]
        if not blocks:
            return 0
        if whole.start in self._machine.unmovable:
            raise seams.RangeRefused("cannot be moved", errno.EBUSY)
        for block in blocks:
            self._machine.replace(block, dataclasses.replace(block, online=False, zone=""))
        return blocks[0].node

    def remove(self, start: int) -> None:
        machine = self._machine
        with machine.act():
            (span,) = [span for span in self.spans() if span.start == start]
            left_bytes = sum(each.size_bytes for each in self.spans()) - span.size_bytes
            if span.held_bytes or left_bytes < machine.promised_bytes.get(self._pool, 0):
                raise seams.RangeRefused("leases", errno.EBUSY)
            machine.pools[self._pool].remove(span)
            self._give_back(span)

    def failed(self, address: int) -> None:
        self._machine.bad.add(address)

    def empty(self, span: seams.Span, *, most_bytes: int) -> None:
        with self._machine.act():
            spans = self._machine.pools[self._pool]
            movable = span.held_bytes - self._machine.stuck_bytes.get(span.start, 0)
            for at, other in enumerate(spans):
                room_bytes = other.size_bytes - other.held_bytes
                moved = min(room_bytes, most_bytes, movable)
                if moved and other.start != span.start and other.node == span.node:
                    spans[at] = dataclasses.replace(other, held_bytes=other.held_bytes + moved)
                    left_bytes = span.held_bytes - moved
                    spans[spans.index(span)] = dataclasses.replace(span, held_bytes=left_bytes)
                    return
            if movable:
                raise seams.RangeRefused("no room", errno.ENOSPC)

    def destroy(self) -> None:
        with self._machine.act():
            if self._machine.promised_bytes.get(self._pool):
                raise seams.RangeRefused("leases", errno.EBUSY)
            for span in self._machine.pools.pop(self._pool, []):
                self._give_back(span)

    def _give_back(self, span: seams.Span) -> None:
        for block in list(self._machine.blocks):
            if self._machine.on_adding == "offline":
                continue
            if self._machine.comes_back and extent(span).overlaps(
                iomem.Range(block.start, block.start + block.size_bytes)
            ):
                zone = self._machine.comes_back
                self._machine.replace(block, dataclasses.replace(block, online=True, zone=zone))

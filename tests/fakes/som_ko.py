"""A fake of som.ko: pools, spans and leases, as `driver/uapi/som.h` promises them.

A fake because tests of sources and of the lease core need hundreds of lives, and the module runs
in a guest alone. It knows the rules of accounts and numbers, and nothing of pages: what of a lease
is open or mapped a test says by `Lease.holders`.
"""

import dataclasses
import errno
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi, control

_Any = TypeVar("_Any", bound=abi.Argument)


@dataclasses.dataclass
class Span:
    """`stuck_bytes` of `held_bytes` are of leases that are not movable."""

    start: int
    size_bytes: int
    node: int
    held_bytes: int = 0
    stuck_bytes: int = 0
    is_leaving: bool = False

    @property
    def free_bytes(self) -> int:
        return self.size_bytes - self.held_bytes


@dataclasses.dataclass
class Pool:
    source: int
    mapping: int
    name: bytes
    quarantined_bytes: int = 0
    moved_bytes: int = 0
    bad: set[int] = dataclasses.field(default_factory=set)
    spans: list[Span] = dataclasses.field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(span.size_bytes for span in self.spans if not span.is_leaving)


@dataclasses.dataclass
class Lease:
    """`small`: of each GiB that it uses by pages of 2 MiB, the bytes that are not in their place.

    All of it, or none.
    """

    pool: int
    name: bytes
    quota_bytes: int
    numa_node: int
    is_movable: bool = False
    holders: int = 0
    is_revoked: bool = False
    used_bytes: int = 0
    small: list[int] = dataclasses.field(default_factory=list)


class SomKo(control.Module):
    """Outlives the agent, as the kernel does. `is_loaded`: nothing is there otherwise.

    `refuse` is called before each command, and may raise OSError. `node_of`: physical address ->
    NUMA node.
    """

    MAJOR = 240

    def __init__(self, *, node_of: Callable[[int], int] = lambda _: 0) -> None:
        super().__init__()
        # The dataclass is frozen, and this is no value.
        self.__dict__.update(
            is_loaded=True,
            pools_by_number={},
            leases_by_number={},
            refuse=lambda _: None,
            node_of=node_of,
            numbers=itertools.count(1),
        )

    is_loaded: bool
    pools_by_number: dict[int, Pool]
    leases_by_number: dict[int, Lease]
    refuse: Callable[[abi.Argument], None]
    node_of: Callable[[int], int]
    numbers: "itertools.count[int]"

    def set(self, **fields: Any) -> None:
        """`is_loaded`, `refuse` or `node_of`. Nothing but pools keeps it loaded, as there."""
        assert fields.get("is_loaded", True) or not self.pools_by_number
        self.__dict__.update(fields)

    def reload(self) -> None:
        """What a boot does, or an administrator who destroys all and loads the module again."""
        self.pools_by_number.clear()
        self.leases_by_number.clear()

    def call_in_child(self, argument: abi.Argument, *, limit_s: float) -> None:
        self.call(argument)

    def call(self, argument: _Any) -> _Any:
        if not self.is_loaded:
            raise seams.DriverNotLoaded("som.ko is not loaded")
        name = type(argument).__name__
        try:
            self.refuse(argument)
            getattr(self, f"_{name}")(argument)
        except OSError as error:
            raise control.KernelError(f"{name}: {error.strerror}", error.errno or 0) from error
        return argument

    def moves(self, pool: int) -> seams.Moves | None:
        found = self.pools_by_number.get(pool)
        return seams.Moves(found.moved_bytes, 0) if found else None

    def _numbers(self, kind: str) -> list[int]:
        if not self.is_loaded:
            return []
        return sorted(self.pools_by_number if kind == "pool" else self.leases_by_number)

    def _pool(self, number: int) -> Pool:
        if number not in self.pools_by_number:
            raise _error(errno.ENOENT)
        return self.pools_by_number[number]

    def _lease(self, number: int) -> Lease:
        if number not in self.leases_by_number:
            raise _error(errno.ENOENT)
        return self.leases_by_number[number]

    def _leases_of(self, pool: int) -> list[Lease]:
        return [lease for lease in self.leases_by_number.values() if lease.pool == pool]

    def _promised(self, pool: int) -> int:
        return sum(lease.quota_bytes for lease in self._leases_of(pool))

    def _Query(self, argument: abi.Query) -> None:
        argument.api_version = abi.API_VERSION
        argument.lease_major = self.MAJOR
        argument.pools, argument.leases = len(self.pools_by_number), len(self.leases_by_number)

    def _PoolCreate(self, argument: abi.PoolCreate) -> None:
        argument.pool = next(self.numbers)
        self.pools_by_number[argument.pool] = Pool(argument.source, argument.mapping, argument.name)

    def _PoolAdd(self, argument: abi.PoolAdd) -> None:
        pool = self._pool(argument.pool)
        start, end = argument.start, argument.start + argument.bytes
        if not argument.bytes or (start | argument.bytes) % abi.CHUNK_BYTES:
            raise _error(errno.EINVAL)
        for each in self.pools_by_number.values():
            if any(s.start < end and start < s.start + s.size_bytes for s in each.spans):
                raise _error(errno.EEXIST if each is pool else errno.EBUSY)
        pool.spans.append(Span(start, argument.bytes, self.node_of(start)))
        pool.spans.sort(key=lambda span: span.start)

    def _PoolSpan(self, argument: abi.PoolSpan) -> None:
        for span in self._pool(argument.pool).spans:
            if span.start + span.size_bytes > argument.start:
                argument.start, argument.bytes = span.start, span.size_bytes
                argument.numa_node, argument.held_bytes = span.node, span.held_bytes
                argument.state = abi.SPAN_STATE_LEAVING if span.is_leaving else 0
                return
        raise _error(errno.ENODATA)

    def _PoolRemove(self, argument: abi.PoolRemove) -> None:
        pool = self._pool(argument.pool)
        found = [span for span in pool.spans if span.start == argument.start]
        if not found:
            raise _error(errno.ENODATA)
        if found[0].held_bytes:
            raise _error(errno.EBUSY)
        left = pool.size_bytes - found[0].size_bytes
        if not found[0].is_leaving and left < self._promised(argument.pool):
            raise _error(errno.ENOSPC)
        pool.spans.remove(found[0])

    def _PoolDestroy(self, argument: abi.PoolDestroy) -> None:
        self._pool(argument.pool)
        if self._leases_of(argument.pool):
            raise _error(errno.EBUSY)
        del self.pools_by_number[argument.pool]

    def _PoolInfo(self, argument: abi.PoolInfo) -> None:
        pool, leases = self._pool(argument.pool), self._leases_of(argument.pool)
        argument.source, argument.mapping = pool.source, pool.mapping
        argument.name, argument.leases = pool.name, len(leases)
        spans = [
            span
            for span in pool.spans
            if not span.is_leaving and argument.numa_node in (abi.NUMA_ANY, span.node)
        ]
        argument.bad_bytes = len(pool.bad) * abi.CHUNK_BYTES
        argument.bytes = sum(span.size_bytes for span in spans) - argument.bad_bytes
        argument.reserved_bytes = self._promised(argument.pool)
        argument.quarantined_bytes = pool.quarantined_bytes
        argument.free_bytes = argument.bytes - sum(span.held_bytes for span in spans)
        argument.free_extents = sum(
            span.size_bytes // 2**30 for span in spans if not span.held_bytes
        )

    def _MemoryFailed(self, argument: abi.MemoryFailed) -> None:
        """Unlike there, what a lease has mapped is known to nobody."""
        argument.pool = argument.state = 0
        chunk = argument.address // abi.CHUNK_BYTES
        if not 0 < chunk < 1 << 32:
            raise _error(errno.EINVAL)
        for number, pool in self.pools_by_number.items():
            if any(s.start <= argument.address < s.start + s.size_bytes for s in pool.spans):
                argument.pool = number
                pool.bad.add(chunk)

    def _PoolCompact(self, argument: abi.PoolCompact) -> None:
        """Unlike there, an extent is a span of 1 GiB, and a range is one span or has none."""
        sizes = argument.start | argument.bytes | argument.most_bytes
        is_half = argument.start and not argument.bytes
        if not argument.most_bytes or sizes % abi.CHUNK_BYTES or is_half:
            raise _error(errno.EINVAL)
        pool = self._pool(argument.pool)
        if pool.mapping != abi.MAPPING_BARE:
            raise _error(errno.EOPNOTSUPP)
        argument.moved_bytes = 0
        by_cost = sorted(pool.spans, key=lambda span: span.held_bytes)
        for span in by_cost:
            if argument.bytes:
                is_meant = span.start == argument.start and span.held_bytes > span.stuck_bytes
                others = [each for each in by_cost[::-1] if each is not span]
            else:
                is_meant = span.size_bytes == abi.EXTENT_BYTES and not span.stuck_bytes
                others = [each for each in by_cost[::-1] if each is not span and each.held_bytes]
            room_bytes = sum(each.free_bytes for each in others if each.node == span.node)
            if is_meant and (argument.bytes or 0 < span.held_bytes <= room_bytes):
                if not room_bytes:
                    raise _error(errno.ENOSPC)
                _move(span, others, argument)
        pool.moved_bytes += argument.moved_bytes

    def _PoolPromote(self, argument: abi.PoolPromote) -> None:
        """Unlike there, of a GiB all is in its place, or nothing: see `Lease.small`."""
        if argument.most_bytes % abi.CHUNK_BYTES:
            raise _error(errno.EINVAL)
        pool = self._pool(argument.pool)
        if pool.mapping != abi.MAPPING_BARE:
            raise _error(errno.EOPNOTSUPP)
        argument.moved_bytes = argument.asked_bytes = 0
        for lease in self._leases_of(argument.pool):
            for scattered_bytes in list(lease.small):
                if scattered_bytes and not _gather(lease, pool.spans, argument):
                    continue
                lease.small.remove(scattered_bytes)
                argument.asked_bytes += abi.EXTENT_BYTES
        pool.moved_bytes += argument.moved_bytes

    def _LeaseCreate(self, argument: abi.LeaseCreate) -> None:
        pool, quota_bytes = self._pool(argument.pool), argument.quota_bytes
        if not quota_bytes or quota_bytes % abi.CHUNK_BYTES:
            raise _error(errno.EINVAL)
        if self._promised(argument.pool) + quota_bytes > pool.size_bytes:
            raise _error(errno.ENOSPC)
        number = next(self.numbers)
        lease = Lease(
            *(argument.pool, argument.name, quota_bytes, argument.numa_node),
            is_movable=bool(argument.options & abi.LEASE_MOVABLE),
        )
        self.leases_by_number[number] = lease
        argument.lease = argument.minor = number
        argument.major = self.MAJOR

    def _LeaseRevoke(self, argument: abi.LeaseRevoke) -> None:
        self._lease(argument.lease).is_revoked = True

    def _LeaseDestroy(self, argument: abi.LeaseDestroy) -> None:
        if self._lease(argument.lease).holders:
            raise _error(errno.EBUSY)
        del self.leases_by_number[argument.lease]

    def _LeaseInfo(self, argument: abi.LeaseInfo) -> None:
        lease = self._lease(argument.lease)
        argument.pool, argument.name = lease.pool, lease.name
        argument.state = abi.LEASE_STATE_REVOKED if lease.is_revoked else 0
        argument.state |= abi.LEASE_STATE_MOVABLE if lease.is_movable else 0
        argument.numa_node, argument.holders = lease.numa_node, lease.holders
        argument.quota_bytes, argument.used_bytes = lease.quota_bytes, lease.used_bytes


def _gather(lease: Lease, spans: list[Span], argument: abi.PoolPromote) -> bool:
    """Move a GiB from wherever it is into a span that is free."""
    free = [each for each in spans if each.free_bytes == abi.EXTENT_BYTES]
    left_bytes = argument.most_bytes - argument.moved_bytes
    if not lease.is_movable or not free or left_bytes < abi.EXTENT_BYTES:
        return False
    for span in spans:
        if span is not free[0]:
            _move(span, free[:1], argument)
    return True


def _move(span: Span, others: Iterable[Span], argument: abi.PoolCompact | abi.PoolPromote) -> None:
    for other in others:
        moved = min(
            span.held_bytes - span.stuck_bytes,
            other.free_bytes if other.node == span.node else 0,
            argument.most_bytes - argument.moved_bytes,
        )
        span.held_bytes -= moved
        other.held_bytes += moved
        argument.moved_bytes += moved


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))

"""What the agent relies on in som.ko, and its fake: tests/vm runs the same on the real module."""

import errno
import functools
from collections.abc import Callable

import pytest

from som_device_plugin.drivers.kernel import abi, control

CHUNK = abi.CHUNK_BYTES
NAME = b"0123456789ab.contract"


def check(module: control.Module, start: int) -> None:
    """At `start` is a range of 16 chunks that nobody has; it is given back."""
    number = module.call(
        abi.PoolCreate(source=abi.SOURCE_EXTERNAL, mapping=abi.MAPPING_BARE, name=NAME)
    ).pool
    assert [pool.pool for pool in module.pools() if pool.name == NAME] == [number]
    _spans_come_and_go(module, number, start)
    _quotas_are_promises(module, number)
    _leases_end(module, number)
    _a_lease_moves_if_its_maker_says_so(module, number)
    _what_moves_has_a_bound(module, number, start)
    _memory_fails(module)
    module.call(abi.PoolDestroy(pool=number))
    assert module.pool(number) is None
    _refuses(errno.ENOENT, lambda: module.call(abi.PoolDestroy(pool=number)))
    _refuses(errno.ENOENT, lambda: module.call(abi.PoolSpan(pool=number)))


def _spans_come_and_go(module: control.Module, number: int, start: int) -> None:
    def add(chunk: int) -> None:
        module.call(abi.PoolAdd(pool=number, start=start + chunk * CHUNK, bytes=8 * CHUNK))

    def after(address: int) -> tuple[int, int, int]:
        span = module.call(abi.PoolSpan(pool=number, start=address))
        return span.start, span.bytes, span.held_bytes

    _refuses(errno.ENODATA, lambda: after(0))
    add(8)
    add(0)
    _refuses(errno.EEXIST, lambda: add(4))
    assert after(0) == (start, 8 * CHUNK, 0)
    assert after(start + 8 * CHUNK - 1) == (start, 8 * CHUNK, 0)
    assert after(start + 8 * CHUNK) == (start + 8 * CHUNK, 8 * CHUNK, 0)
    _refuses(errno.ENODATA, lambda: after(start + 16 * CHUNK))
    _refuses(errno.ENODATA, lambda: module.call(abi.PoolRemove(pool=number, start=start + CHUNK)))
    module.call(abi.PoolRemove(pool=number, start=start + 8 * CHUNK))
    info = module.pool(number)
    assert info and (info.bytes, info.reserved_bytes, info.free_bytes) == (
        *(8 * CHUNK, 0, 8 * CHUNK),
    )


def _quotas_are_promises(module: control.Module, number: int) -> None:
    def create(chunks: int) -> int:
        wanted = abi.LeaseCreate(
            pool=number, numa_node=abi.NUMA_ANY, quota_bytes=chunks * CHUNK, name=b"som:a.1"
        )
        return int(module.call(wanted).lease)

    _refuses(errno.EINVAL, lambda: create(0))
    _refuses(errno.ENOSPC, lambda: create(9))
    lease = create(8)
    _refuses(errno.ENOSPC, lambda: create(1))
    info = module.pool(number)
    assert info and (info.leases, info.reserved_bytes) == (1, 8 * CHUNK)
    span = module.call(abi.PoolSpan(pool=number))
    assert span.held_bytes == 0
    _refuses(errno.ENOSPC, lambda: module.call(abi.PoolRemove(pool=number, start=span.start)))
    _refuses(errno.EBUSY, lambda: module.call(abi.PoolDestroy(pool=number)))
    found = module.lease(lease)
    assert found and (found.name, found.pool, found.quota_bytes, found.state, found.holders) == (
        *(b"som:a.1", number, 8 * CHUNK, 0, 0),
    )


def _leases_end(module: control.Module, number: int) -> None:
    (lease,) = [each.lease for each in module.leases() if each.pool == number]
    for _ in range(2):
        module.call(abi.LeaseRevoke(lease=lease))
    found = module.lease(lease)
    assert found and found.state == abi.LEASE_STATE_REVOKED
    module.call(abi.LeaseDestroy(lease=lease))
    assert module.lease(lease) is None
    _refuses(errno.ENOENT, lambda: module.call(abi.LeaseRevoke(lease=lease)))
    _refuses(errno.ENOENT, lambda: module.call(abi.LeaseDestroy(lease=lease)))


def _a_lease_moves_if_its_maker_says_so(module: control.Module, number: int) -> None:
    wanted = abi.LeaseCreate(
        pool=number, quota_bytes=CHUNK, name=b"som:b.1", options=abi.LEASE_MOVABLE
    )
    lease = module.call(wanted).lease
    found = module.lease(lease)
    assert found and found.state == abi.LEASE_STATE_MOVABLE
    module.call(abi.LeaseDestroy(lease=lease))


def _what_moves_has_a_bound(module: control.Module, number: int, start: int) -> None:
    def moved(first: int, chunks: int, most_bytes: int, pool: int = number) -> int:
        wanted = abi.PoolCompact(
            pool=pool, start=first, bytes=chunks * CHUNK, most_bytes=most_bytes
        )
        return int(module.call(wanted).moved_bytes)

    def promoted(most_bytes: int, pool: int = number) -> tuple[int, int]:
        done = module.call(abi.PoolPromote(pool=pool, most_bytes=most_bytes))
        return done.moved_bytes, done.asked_bytes

    assert moved(0, 0, CHUNK) == moved(start, 8, CHUNK) == 0
    assert promoted(0) == promoted(CHUNK) == (0, 0)
    _refuses(errno.EINVAL, lambda: promoted(CHUNK + 1))
    for wrong in ((0, 0, 0), (0, 0, CHUNK + 1), (start, 0, CHUNK), (start + 1, 1, CHUNK)):
        _refuses(errno.EINVAL, functools.partial(moved, *wrong))
    pinnable = module.call(
        abi.PoolCreate(source=abi.SOURCE_EXTERNAL, mapping=abi.MAPPING_PINNABLE, name=NAME)
    ).pool
    _refuses(errno.EOPNOTSUPP, lambda: moved(0, 0, CHUNK, pinnable))
    _refuses(errno.EOPNOTSUPP, lambda: promoted(0, pinnable))
    module.call(abi.PoolDestroy(pool=pinnable))
    _refuses(errno.ENOENT, lambda: moved(0, 0, CHUNK, pinnable))
    _refuses(errno.ENOENT, lambda: promoted(0, pinnable))


def _memory_fails(module: control.Module) -> None:
    """Of the pool it would be for as long as the module is loaded: none has the far address."""
    failed = module.call(abi.MemoryFailed(address=1 << 45))
    assert (failed.pool, failed.state) == (0, 0)
    _refuses(errno.EINVAL, lambda: module.call(abi.MemoryFailed(address=0)))
    _refuses(errno.EINVAL, lambda: module.call(abi.MemoryFailed(address=1 << 53)))


def _refuses(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(control.KernelError) as caught:
        call()
    assert caught.value.errno == code

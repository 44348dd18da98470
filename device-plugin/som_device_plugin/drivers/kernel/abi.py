"""The ioctls of som.ko, as `driver/uapi/som.h` defines them; that header is the documentation.

Every structure begins with its own size, so a newer module accepts these and an older one answers
E2BIG only if a field that it does not know is set.
"""

import ctypes
from typing import ClassVar, Final

API_VERSION: Final = 1
CHUNK_BYTES: Final = 1 << 21
EXTENT_BYTES: Final = 1 << 30
NAME_BYTES: Final = 64
NUMA_ANY: Final = -1

SOURCE_EXTERNAL: Final = 1
SOURCE_HUGETLB: Final = 2
SOURCE_CARVED: Final = 3
SOURCE_DEVDAX: Final = 4
MAPPING_BARE: Final = 1
MAPPING_PINNABLE: Final = 2
LEASE_MOVABLE: Final = 1
LEASE_STATE_REVOKED: Final = 1
LEASE_STATE_MOVABLE: Final = 2
SPAN_STATE_LEAVING: Final = 1

_IOC: Final = 0xDA


class Argument(ctypes.Structure):
    """Base of the arguments: knows its command, and sets its size."""

    command: ClassVar[int]

    def __init__(self, **fields: int | bytes) -> None:
        super().__init__(size=ctypes.sizeof(self), **fields)


def _number(number: int) -> int:
    return _IOC << 8 | number


_U32 = ctypes.c_uint32
_S32 = ctypes.c_int32
_U64 = ctypes.c_uint64
_NAME = ctypes.c_char * NAME_BYTES
_HEAD: Final = [("size", _U32), ("flags", _U32)]


class Query(Argument):
    """What the module can do."""

    command = _number(0x00)
    _fields_: ClassVar = [
        *_HEAD,
        ("api_version", _U32),
        ("sources", _U32),
        ("mappings", _U32),
        ("lease_major", _U32),
        ("max_leases", _U32),
        ("pools", _U32),
        ("leases", _U32),
        ("reserved", _U32),
        ("pinnable_sources", _U32),
    ]


class PoolCreate(Argument):
    """An empty pool."""

    command = _number(0x01)
    _fields_: ClassVar = [
        *_HEAD,
        ("source", _U32),
        ("mapping", _U32),
        ("name", _NAME),
        ("pool", _U32),
        ("reserved", _U32),
    ]


class PoolAdd(Argument):
    """Memory for a pool: all of it, or nothing."""

    command = _number(0x02)
    _fields_: ClassVar = [
        *_HEAD,
        ("pool", _U32),
        ("reserved", _U32),
        ("start", _U64),
        ("bytes", _U64),
    ]


class PoolDestroy(Argument):
    """All memory of a pool goes back."""

    command = _number(0x03)
    _fields_: ClassVar = [*_HEAD, ("pool", _U32), ("reserved", _U32)]


class PoolInfo(Argument):
    """The accounts of a pool, of one NUMA node or of all."""

    command = _number(0x04)
    _fields_: ClassVar = [
        *_HEAD,
        ("pool", _U32),
        ("numa_node", _S32),
        ("source", _U32),
        ("mapping", _U32),
        ("leases", _U32),
        ("free_extents", _U32),
        ("bytes", _U64),
        ("reserved_bytes", _U64),
        ("free_bytes", _U64),
        ("zeroed_bytes", _U64),
        ("dirty_bytes", _U64),
        ("name", _NAME),
        ("bad_bytes", _U64),
        ("quarantined_bytes", _U64),
    ]


class LeaseCreate(Argument):
    """A lease with its device."""

    command = _number(0x05)
    _fields_: ClassVar = [
        *_HEAD,
        ("pool", _U32),
        ("numa_node", _S32),
        ("quota_bytes", _U64),
        ("name", _NAME),
        ("lease", _U32),
        ("major", _U32),
        ("minor", _U32),
        ("options", _U32),
    ]


class LeaseRevoke(Argument):
    """The end of a lease's use."""

    command = _number(0x06)
    _fields_: ClassVar = [*_HEAD, ("lease", _U32), ("reserved", _U32)]


class LeaseDestroy(Argument):
    """The end of a lease that nobody holds."""

    command = _number(0x07)
    _fields_: ClassVar = [*_HEAD, ("lease", _U32), ("reserved", _U32)]


class LeaseInfo(Argument):
    """The accounts of a lease."""

    command = _number(0x08)
    _fields_: ClassVar = [
        *_HEAD,
        ("lease", _U32),
        ("pool", _U32),
        ("state", _U32),
        ("numa_node", _S32),
        ("holders", _U32),
        ("mappings", _U32),
        ("quota_bytes", _U64),
        ("committed_bytes", _U64),
        ("used_bytes", _U64),
        ("held_bytes", _U64),
        ("peak_bytes", _U64),
        ("faults_2m", _U64),
        ("faults_1g", _U64),
        ("zeroed_late_bytes", _U64),
        ("name", _NAME),
        ("quarantined_bytes", _U64),
        ("pinned_bytes", _U64),
    ]


class PoolSpan(Argument):
    """The first span of a pool that ends after an address."""

    command = _number(0x09)
    _fields_: ClassVar = [
        *_HEAD,
        ("pool", _U32),
        ("numa_node", _S32),
        ("start", _U64),
        ("bytes", _U64),
        ("held_bytes", _U64),
        ("state", _U32),
        ("reserved", _U32),
    ]


class PoolRemove(Argument):
    """One span of a pool goes back."""

    command = _number(0x0A)
    _fields_: ClassVar = [*_HEAD, ("pool", _U32), ("reserved", _U32), ("start", _U64)]


class MemoryFailed(Argument):
    """Memory that nobody may use any more."""

    command = _number(0x0B)
    _fields_: ClassVar = [
        *_HEAD,
        ("address", _U64),
        ("pool", _U32),
        ("state", _U32),
        ("reserved", _U64),
    ]


class PoolCompact(Argument):
    """Memory of movable leases moves: out of a range, or so that whole GiB become free."""

    command = _number(0x0C)
    _fields_: ClassVar = [
        *_HEAD,
        ("pool", _U32),
        ("reserved", _U32),
        ("start", _U64),
        ("bytes", _U64),
        ("most_bytes", _U64),
        ("moved_bytes", _U64),
    ]


class PoolPromote(Argument):
    """GiB of mappings become one page, those of movable leases by moves where it takes some."""

    command = _number(0x0D)
    _fields_: ClassVar = [
        *_HEAD,
        ("pool", _U32),
        ("reserved", _U32),
        ("most_bytes", _U64),
        ("moved_bytes", _U64),
        ("asked_bytes", _U64),
    ]

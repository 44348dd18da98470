"""The ioctls of som.ko, as `driver/uapi/som.h` defines them; that header is the documentation.

Every structure begins with its own size, so a newer module accepts these and an older one answers
E2BIG only if a field that it does not know is set.
"""

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import os
import pathlib
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import ClassVar, Final, TypeVar

from som_device_plugin import seams

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

KERNEL_TOO_OLD: Final = errno.ENOPKG

_IOC: Final = 0xDA
_MOVES: Final = ("moved_bytes", "failed_moves")
_REASONS: Final = {
    errno.ETIME: "not done in time, so it was stopped",
    KERNEL_TOO_OLD: "refused, because on this kernel any user could crash the node with memory "
    "of this source and class Bare; the kernel's log names the first good versions, and class "
    "Pinnable and HugeTLB work on all",
}


_CHILD: Final = """
import ctypes, fcntl, os, sys
control, command, argument, parent = sys.argv[1:]
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
os.getppid() == int(parent) or sys.exit(3)
try:
    fcntl.ioctl(int(control), int(command), bytes.fromhex(argument))
except OSError as error:
    sys.exit(error.errno)
"""
"""Ends with the agent: another one finds the command done, or not begun."""


class KernelError(seams.DriverError):
    """som.ko refused a command; `errno` is its answer."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


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


_Any = TypeVar("_Any", bound=Argument)


@dataclasses.dataclass(frozen=True)
class Module:
    """som.ko, by its control device and sysfs. Pools and leases live in the kernel, not here.

    The device is opened for each command: who has it open keeps the module from being unloaded.
    """

    dev: pathlib.Path = pathlib.Path("/dev")
    sysfs: pathlib.Path = pathlib.Path("/sys")

    def call(self, argument: _Any) -> _Any:
        """Run a command; the same object, with the kernel's answer in it.

        Raises:
            seams.DriverNotLoaded: there is no som.ko in the kernel.
            KernelError: what the kernel answered.
        """
        name = type(argument).__name__
        try:
            control = self.open()
        except OSError as error:
            raise KernelError(
                f"opening /dev/som_ctl: {error.strerror}; it needs root (a privileged container)",
                error.errno or 0,
            ) from error
        try:
            fcntl.ioctl(control, argument.command, argument)
        except OSError as error:
            code = error.errno or 0
            raise KernelError(f"{name}: {_REASONS.get(code, error.strerror)}", code) from error
        finally:
            os.close(control)
        return argument

    def call_in_child(self, argument: Argument, *, limit_s: float) -> None:
        """Run a command that answers nothing, and that only the end of its process stops.

        Raises:
            seams.DriverNotLoaded: there is no som.ko in the kernel.
            KernelError: what the kernel answered; ETIME: nothing in `limit_s`, so it was stopped.
        """
        name = type(argument).__name__
        control = self.open()
        words = (control, argument.command, bytes(argument).hex(), os.getpid())
        try:
            code = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _CHILD, *map(str, words)],
                pass_fds=[control],
                timeout=limit_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = errno.ETIME
        finally:
            os.close(control)
        if code:
            text = _REASONS.get(code, os.strerror(code) if code > 0 else f"signal {-code}")
            raise KernelError(f"{name}: {text}", max(code, 0))

    def open(self) -> int:
        """A descriptor of the control device, to be closed.

        Raises:
            seams.DriverNotLoaded: there is no som.ko in the kernel.
            OSError: the agent may not.
        """
        try:
            shown = (self.sysfs / "class/misc/som_ctl/dev").read_text()
        except FileNotFoundError:
            raise seams.DriverNotLoaded(
                "som.ko is not loaded on this node; the operator loads it, and its pod "
                "som-driver-<node> says why it could not; without Kubernetes: see driver/README.md"
            ) from None
        number = os.makedev(*map(int, shown.split(":")))
        path = self.dev / "som_ctl"
        # A container's /dev has what the node had when the container began.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_rdev != number:
                path.unlink()
        with contextlib.suppress(FileExistsError):
            os.mknod(path, 0o600 | stat.S_IFCHR, number)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def leases(self) -> Iterator[LeaseInfo]:
        """All leases in the kernel, whoever has made them."""
        for number in self._numbers("lease"):
            if found := self.lease(number):
                yield found

    def lease(self, number: int) -> LeaseInfo | None:
        """The lease of this number, or None."""
        with absent():
            return self.call(LeaseInfo(lease=number))
        return None

    def pools(self) -> Iterator[PoolInfo]:
        """All pools in the kernel, whoever has made them."""
        for number in self._numbers("pool"):
            if found := self.pool(number):
                yield found

    def pool(self, number: int) -> PoolInfo | None:
        """The pool of this number, with the memory of all NUMA nodes, or None."""
        with absent():
            return self.call(PoolInfo(pool=number, numa_node=NUMA_ANY))
        return None

    def moves(self, pool: int) -> seams.Moves | None:
        """What was moved in the pool of this number; None: it has gone."""
        directory = self.sysfs / f"class/som/pool{pool}"
        try:
            numbers = [int((directory / name).read_text()) for name in _MOVES]
        except OSError:
            return None
        return seams.Moves(*numbers)

    def _numbers(self, kind: str) -> list[int]:
        """Of the devices of a kind, as sysfs shows them; none when som.ko is not loaded."""
        paths = (self.sysfs / "class/som").glob(f"{kind}*")
        return sorted(int(path.name.removeprefix(kind)) for path in paths)


@contextlib.contextmanager
def absent() -> Iterator[None]:
    """What is not there, with som.ko or without, needs no command."""
    try:
        yield
    except seams.DriverNotLoaded:
        pass
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise

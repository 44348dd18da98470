"""The Kernel driver: each start of a lease is a lease of som.ko, a device of its own.

The pool exists in som.ko under the SomPool's name. A start's kernel lease is named by
`Start.mount_source`, so each can be found from either side; its device node stands where the
container's runtime looks for it and reaches nobody else's memory. The kernel zeroes chunks in the
background, or at the latest when they are touched; no build waits for it.
"""

import asyncio
import contextlib
import errno
import os
import pathlib
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers import kernel_abi
from som_device_plugin.linux import processes

_FILE_NAME: Final = "som"


class Kernel:
    """Implements `seams.Driver` with som.ko."""

    name = "Kernel"

    def __init__(self, *, state_dir: pathlib.Path, control: kernel_abi.Control) -> None:
        self._leases = state_dir / "leases"
        self._control = control

    def self_check(self) -> None:
        """Asks the module for its version."""
        try:
            version = self._control.call(kernel_abi.Query()).api_version
        except kernel_abi.KernelError as error:
            raise seams.DriverError(f"the Kernel driver cannot work: {error}") from error
        if version != kernel_abi.API_VERSION:
            raise seams.DriverError(
                f"som.ko speaks version {version} of its interface, this agent version "
                f"{kernel_abi.API_VERSION}: load the module that belongs to the agent"
            )

    def prepare_path(self, lease_id: seams.LeaseId) -> str:
        """See `seams.Driver`."""
        path = self._device(lease_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def remove_path(self, lease_id: seams.LeaseId) -> None:
        """See `seams.Driver`."""
        path = self._device(lease_id)
        if path.exists():
            raise seams.DriverError(f"removing {path.parent}: a start's device is still there")
        with contextlib.suppress(FileNotFoundError):
            path.parent.rmdir()

    def free_slot(self, *, pool: str, named: frozenset[int]) -> int:
        """See `seams.Driver`: a kernel lease is new each time, so any number that is not named."""
        return min(set(range(len(named) + 1)) - named)

    async def build(
        self, start: seams.Start, *, on_progress: Callable[[int], None]
    ) -> Mapping[int, int]:
        """See `seams.Driver`."""
        node = kernel_abi.NUMA_ANY if start.preferred_node is None else start.preferred_node
        await asyncio.to_thread(self._build, start, node)
        on_progress(start.size_bytes)
        return {max(node, 0): start.size_bytes}

    def _build(self, start: seams.Start, node: int) -> None:
        number = self._find(start)
        if number is None:
            number = self._create(start, node)
        info = self._control.call(kernel_abi.LeaseInfo(lease=number))
        if info.state & kernel_abi.LEASE_STATE_REVOKED:
            raise seams.DriverError(
                f"building {start.mount_source}: it was revoked, and {info.holders} still hold it"
            )
        major = self._control.call(kernel_abi.Query()).lease_major
        device = self._device(start.lease_id)
        device.parent.mkdir(parents=True, exist_ok=True)
        # Whoever reaches the path is the container that the path was given to.
        new = device.with_name(f".{_FILE_NAME}.{start.number}")
        new.unlink(missing_ok=True)
        os.mknod(new, stat.S_IFCHR | 0o600, os.makedev(major, number))
        new.chmod(0o666)
        new.rename(device)

    def _create(self, start: seams.Start, node: int) -> int:
        argument = kernel_abi.LeaseCreate(
            pool=self._pool(start.pool),
            numa_node=node,
            quota_bytes=start.size_bytes,
            name=start.mount_source.encode(),
        )
        try:
            return int(self._control.call(argument).lease)
        except kernel_abi.KernelError as error:
            wanted = f"{v1alpha1.format_bytes(start.size_bytes)} from pool {start.pool}: {error}"
            if error.errno == errno.ENOSPC:
                raise seams.NotEnoughMemory(wanted) from error
            raise seams.DriverError(wanted) from error

    def revoke(self, start: seams.Start) -> None:
        """See `seams.Driver`."""
        number = self._find(start)
        if number is None:
            return
        device = self._device(start.lease_id)
        with contextlib.suppress(FileNotFoundError):
            if os.minor(device.stat().st_rdev) == number:
                device.unlink()
        self._control.call(kernel_abi.LeaseRevoke(lease=number))
        self._destroy(number)

    def usage(self, start: seams.Start) -> seams.Usage:
        """See `seams.Driver`. Ends the kernel lease of a revoked start that nobody holds now."""
        number = self._find(start)
        if number is not None:
            info = self._control.call(kernel_abi.LeaseInfo(lease=number))
            revoked = info.state & kernel_abi.LEASE_STATE_REVOKED
            if not (revoked and self._destroy(number)):
                return seams.Usage(current_bytes=info.held_bytes, reserved_bytes=info.quota_bytes)
        return seams.Usage(current_bytes=0, reserved_bytes=0)

    def attached(self) -> Mapping[tuple[seams.LeaseId, int], int]:
        """See `seams.Driver`."""
        found: dict[tuple[seams.LeaseId, int], int] = {}
        for number, name in kernel_abi.leases():
            kind, _, rest = name.partition(":")
            lease_id, _, start_number = rest.rpartition(".")
            if kind != "som" or not start_number.isdigit():
                continue
            with contextlib.suppress(kernel_abi.KernelError):
                info = self._control.call(kernel_abi.LeaseInfo(lease=number))
                if not info.state & kernel_abi.LEASE_STATE_REVOKED:
                    found[seams.LeaseId(lease_id), int(start_number)] = info.quota_bytes
        return found

    def culprits(self, start: seams.Start) -> Sequence[str]:
        """See `seams.Driver`."""
        number = self._find(start)
        names = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if number is not None and _holds(process, number):
                    name = processes.printable((process / "comm").read_bytes().strip())
                    names.append(f"pid {process.name} ({name})")
        return names

    def end_builders(self) -> None:
        """See `seams.Driver`: a build has no processes."""

    def _find(self, start: seams.Start) -> int | None:
        for number, name in kernel_abi.leases():
            if name == start.mount_source:
                return number
        return None

    def _pool(self, wanted: str) -> int:
        for number, name in kernel_abi.pools():
            if name == wanted:
                return number
        raise seams.DriverError(f"som.ko has no pool named {wanted}")

    def _destroy(self, number: int) -> bool:
        """Whether the kernel lease is gone; False while somebody holds it."""
        try:
            self._control.call(kernel_abi.LeaseDestroy(lease=number))
        except kernel_abi.KernelError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT):
                raise seams.DriverError(f"kernel lease {number}: {error}") from error
            return error.errno == errno.ENOENT
        return True

    def _device(self, lease_id: seams.LeaseId) -> pathlib.Path:
        return self._leases / lease_id / _FILE_NAME


def _holds(process: pathlib.Path, number: int) -> bool:
    """Whether a process has the device of a kernel lease open or mapped."""
    for link in (*(process / "fd").iterdir(), *(process / "map_files").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            status = link.stat()
            if stat.S_ISCHR(status.st_mode) and os.minor(status.st_rdev) == number:
                target = str(link.readlink())
                if target.endswith((f"/{_FILE_NAME}", f"/{number}")):
                    return True
    return False

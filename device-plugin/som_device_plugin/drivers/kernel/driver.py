"""The Kernel driver: each start of a lease is a lease of som.ko, with a device of its own.

A start is there when a lease of its name is (`seams.Start.mount_source`), in the pool of its name:
both are looked up in the kernel each time, so that there is nothing to agree with it about. Making
one takes milliseconds, because som.ko zeroes in the background, or at the first touch. The memory
is free when the lease is gone: som.ko destroys none that somebody has open or mapped.
"""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi, control
from som_device_plugin.drivers.kernel import pool as pools
from som_device_plugin.linux import modules, processes

_LEASE: Final = re.compile(r"som:([0-9a-f]{16})\.([0-9]+)")
_SOURCES: Final = {
    "DevDax": abi.SOURCE_DEVDAX,
    "External": abi.SOURCE_EXTERNAL,
    "Carved": abi.SOURCE_CARVED,
}

_Key = tuple[seams.LeaseId, int]


class Kernel:
    """Implements `seams.Driver` with som.ko, for the agent of the real path `state_dir`."""

    name = "Kernel"
    keeps_content = False
    zeroes_at_build = False

    def __init__(self, *, state_dir: pathlib.Path, module: control.Module | None = None) -> None:
        self._state_dir = state_dir
        self._module = module or control.Module()
        # Where a lease was when it was last looked for: whether it is there, the kernel says.
        self._numbers: dict[str, int] = {}

    def ranges(self, name: str, kind: str) -> seams.RangeHold:
        """The pool `name` in som.ko, of memory of `kind` (see `v1alpha1.Source.kind`)."""
        return self._pool(name, _SOURCES[kind])

    def self_check(self) -> None:
        """som.ko may be loaded later: until then its pools are refused with that as the reason."""

    def edits(self, start: seams.Start) -> seams.ContainerEdits:
        """See `seams.Driver`."""
        if (lease := self._find(start)) is None:
            raise seams.DriverError(
                f"som.ko has no lease {start.mount_source} any more: somebody destroyed it, or "
                "loaded the module again; the next try makes another"
            )
        major = self._module.call(abi.Query()).lease_major
        node = seams.DeviceNode(
            f"/dev/som-lease/{lease.lease}", seams.DEVICE_PATH, major, lease.lease
        )
        return seams.ContainerEdits(devices=(node,))

    def remove_path(self, lease_id: seams.LeaseId) -> None:
        """A lease of som.ko leaves no directory."""

    def free_slot(self, *, pool: str, named: frozenset[int]) -> int:
        """The lowest that no record names: what starts hold is in the kernel under their names."""
        return min(set(range(len(named) + 1)) - named)

    async def build(
        self,
        start: seams.Start,
        *,
        on_progress: Callable[[int], None],
        is_spare: bool = False,
        is_movable: bool = False,
    ) -> Mapping[int, int]:
        """See `seams.Driver`. On which NUMA nodes its memory is, the first touch decides.

        In the caller's thread: cancelled in another one, it would make the lease afterwards.
        """
        if self._find(start) is None:
            self._create(start, is_movable=is_movable)
        on_progress(start.size_bytes)
        return {}

    def _create(self, start: seams.Start, *, is_movable: bool = False) -> None:
        doing = f"making lease {start.mount_source} in pool {start.pool}"
        if (found := self._pool(start.pool).info()) is None:
            raise seams.DriverError(f"{doing}: som.ko has no such pool; it is made again soon")
        node = abi.NUMA_ANY if start.preferred_node is None else start.preferred_node
        # What pins memory of class Pinnable may come at any time: nothing of it moves.
        may_move = is_movable and found.mapping == abi.MAPPING_BARE and not _adds_devices()
        wanted = abi.LeaseCreate(
            pool=found.pool,
            numa_node=node,
            quota_bytes=start.size_bytes,
            name=start.mount_source.encode(),
            options=abi.LEASE_MOVABLE if may_move else 0,
        )
        try:
            self._numbers[start.mount_source] = self._module.call(wanted).lease
        except control.KernelError as error:
            if error.errno == errno.ENOSPC:
                raise seams.NotEnoughMemory(
                    f"{v1alpha1.format_bytes(start.size_bytes)} from pool {start.pool}: that much "
                    "of it is not free in som.ko"
                ) from error
            raise seams.DriverError(f"{doing}: {error}") from error

    def revoke(self, start: seams.Start) -> None:
        """See `seams.Driver`: every touch is a SIGBUS from now on, and no open succeeds."""
        if (lease := self._find(start)) is None:
            return
        with control.absent():
            self._module.call(abi.LeaseRevoke(lease=lease.lease))
            try:
                self._module.call(abi.LeaseDestroy(lease=lease.lease))
            except control.KernelError as error:
                # Whoever has it open or mapped keeps it.
                if error.errno != errno.EBUSY:
                    raise

    def usage(self, start: seams.Start) -> seams.Usage:
        """See `seams.Driver`: a lease has all of its quota, touched or not, until it is gone."""
        return _usage(self._find(start))

    def look(self, starts: Sequence[seams.Start]) -> seams.Seen:
        """See `seams.Driver`. What resists somebody had open or mapped at the last try."""
        leases = dict(self._leases())
        return seams.Seen(
            attached={
                key: lease.quota_bytes for key, lease in leases.items() if not _is_revoked(lease)
            },
            resisting=frozenset(key for key, lease in leases.items() if _is_revoked(lease)),
            usage={start.built: _usage(leases.get(start.built)) for start in starts},
        )

    def statistics(self, start: seams.Start) -> seams.Statistics | None:
        """See `seams.Driver`."""
        if (lease := self._find(start)) is None:
            return None
        return seams.Statistics(
            used_bytes=lease.used_bytes,
            peak_bytes=lease.peak_bytes,
            faults_2m=lease.faults_2m,
            faults_1g=lease.faults_1g,
            zeroed_late_bytes=lease.zeroed_late_bytes,
        )

    def compact(self, pool: str, *, most_bytes: int) -> int:
        """See `seams.Driver`."""
        return self._pool(pool).compact(most_bytes)

    def promote(self, pool: str, *, most_bytes: int) -> seams.Promotion:
        """See `seams.Driver`."""
        return self._pool(pool).promote(most_bytes)

    def moves(self, pool: str) -> seams.Moves | None:
        """See `seams.Driver`."""
        with contextlib.suppress(seams.DriverNotLoaded):
            return self._pool(pool).moves()
        return None

    def culprits(self, start: seams.Start) -> Sequence[str]:
        """See `seams.Driver`."""
        if (lease := self._find(start)) is None:
            return ()
        major = self._module.call(abi.Query()).lease_major
        return processes.holders(node=os.makedev(major, lease.lease))

    def end_builders(self) -> None:
        """It starts no processes."""

    async def close(self) -> None:
        """It has nothing open."""

    def _pool(self, name: str, source: int = 0) -> pools.Pool:
        return pools.Pool(self._module, state_dir=self._state_dir, pool=name, source=source)

    def _find(self, start: seams.Start) -> abi.LeaseInfo | None:
        """The lease of this start, in its own pool; None: there is none, or no som.ko."""
        name = start.mount_source
        known = self._module.lease(self._numbers[name]) if name in self._numbers else None
        for lease in [known] if known else self._module.leases():
            if lease.name == name.encode() and self._is_of(lease, start.pool):
                self._numbers[name] = lease.lease
                return lease
        self._numbers.pop(name, None)
        return None

    def _is_of(self, lease: abi.LeaseInfo, name: str) -> bool:
        found = self._module.pool(lease.pool)
        return found is not None and found.name == pools.kernel_name(self._state_dir, name).encode()

    def _leases(self) -> Iterator[tuple[_Key, abi.LeaseInfo]]:
        """All of this agent's, whichever of its pools they are in."""
        ours = pools.of_agent(self._module, self._state_dir)
        for lease in self._module.leases():
            named = _LEASE.fullmatch(lease.name.decode())
            if named and lease.pool in ours:
                yield (seams.LeaseId(named[1]), int(named[2])), lease


def _adds_devices() -> bool:
    """Whether containers of this node may have devices that their pods do not ask for.

    NVIDIA's runtime adds them by the environment that an image has, and its driver maps memory
    without struct pages, as VFIO does (nvidia.ko: os_lookup_user_io_memory).
    """
    return modules.loaded("nvidia") is not None


def _usage(lease: abi.LeaseInfo | None) -> seams.Usage:
    quota_bytes = lease.quota_bytes if lease else 0
    return seams.Usage(current_bytes=quota_bytes, reserved_bytes=quota_bytes)


def _is_revoked(lease: abi.LeaseInfo) -> bool:
    return bool(lease.state & abi.LEASE_STATE_REVOKED)

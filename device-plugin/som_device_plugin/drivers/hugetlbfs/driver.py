"""The HugeTLBFS driver: each start of a lease is a hugetlbfs superblock of its own.

Life of a start: a worker in the cgroup of the start's slot builds the superblock detached,
swaps pages from the pool's hold into its file, populates it (the kernel zeroes), and attaches it
over the lease's directory. Revoking truncates, unlinks and detaches; the memory is free when the
cgroup's charges are 0. A superblock is never reused: an old mapping would see new content.
"""

import asyncio
import contextlib
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import ahead, hold, worker
from som_device_plugin.linux import cgroups, mountinfo, mounts, processes

log = logging.getLogger(__name__)

_OPTIONS: Final = ("bind", "rw", "rprivate", "noexec", "nosuid", "nodev")


class HugeTLBFS:
    """Implements `seams.Driver` with files of hugetlbfs, below the real path `state_dir`."""

    name = "HugeTLBFS"
    keeps_content = True
    zeroes_at_build = True

    def __init__(self, *, state_dir: pathlib.Path, hierarchy: cgroups.Hierarchy) -> None:
        self._state_dir = state_dir
        self._leases = state_dir / "leases"
        self._hierarchy = hierarchy
        self._workers = ahead.Workers(self._hierarchy.leaving)
        # Of starts that were revoked and are not free: the superblock, and a descriptor (O_PATH)
        # of the file while the kernel refuses to truncate it.
        self._revoked_devices: dict[str, str] = {}
        self._resisting: dict[tuple[seams.LeaseId, int], int] = {}
        # Between a look at the mounts and the steps that follow from it, no other thread may act.
        self._revoking = threading.Lock()

    def self_check(self) -> None:
        """Builds and drops an empty superblock, and makes som's cgroup."""
        try:
            self._hierarchy.create(self._hierarchy.som(self._state_dir))
            os.close(mounts.build_hugetlbfs("som:self-check", {"size": "0"}))
        except cgroups.CgroupError as error:
            raise seams.DriverError(f"the HugeTLBFS driver cannot work: {error}") from error
        except OSError as error:
            raise seams.DriverError(
                f"the HugeTLBFS driver cannot work: {error.strerror}; it needs root (a privileged "
                "container) and Linux 5.16 or newer with CONFIG_HUGETLBFS"
            ) from error

    def edits(self, start: seams.Start) -> seams.ContainerEdits:
        """See `seams.Driver`."""
        path = self._place(start) / worker.FILE_NAME
        return seams.ContainerEdits((seams.Mount(str(path), seams.DEVICE_PATH, _OPTIONS),))

    def remove_path(self, lease_id: seams.LeaseId) -> None:
        """See `seams.Driver`."""
        directory = self._directory(lease_id)
        if self._mounted(directory):
            raise seams.DriverError(f"removing {directory}: a start is still mounted there")
        with contextlib.suppress(FileNotFoundError):
            # Version 0.1 gave kubelet this path, and a link to nowhere kept it from being made.
            link = directory / worker.FILE_NAME
            for name in (link, link.with_suffix(".made")):
                name.unlink(missing_ok=True)
            directory.rmdir()

    def hold(self, pool: str, page_bytes: int) -> hold.Hold:
        """See `seams.Driver`."""
        return hold.Hold(
            state_dir=self._state_dir, pool=pool, hierarchy=self._hierarchy, page_bytes=page_bytes
        )

    def free_slot(self, *, pool: str, named: frozenset[int]) -> int:
        """See `seams.Driver`."""
        slots = self._hierarchy.slots(self._hierarchy.pool(self._state_dir, pool))
        for slot in sorted(slots.keys() - named):
            if self._hierarchy.empty(slots[slot]):
                return slot
        taken = slots.keys() | named
        return min(set(range(len(taken) + 1)) - taken)

    async def build(
        self,
        start: seams.Start,
        *,
        on_progress: Callable[[int], None],
        is_spare: bool = False,
        is_movable: bool = False,
    ) -> Mapping[int, int]:
        """See `seams.Driver`."""
        group, directory = self._group(start), self._place(start)
        mounted = await asyncio.to_thread(self._mounted, directory)
        if all(mount.source != start.mount_source for mount in mounted):
            if mounted:
                raise seams.DriverError(
                    f"building {start.mount_source}: {mounted[-1].source} is still mounted in its "
                    "place, and is taken away first"
                )
            self._hierarchy.create(group)
            usage = self.usage(start)
            if not usage.free:
                raise seams.DriverError(
                    f"building {start.mount_source}: {usage.held_bytes} bytes are still held in "
                    f"its slot {group}; another slot is needed"
                )
            try:
                await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
            except OSError as error:
                raise seams.DriverError(
                    f"making {directory}: {error.strerror}; see that the disk has free space and "
                    "is writable"
                ) from error
            await self._run_worker(start, on_progress, is_spare=is_spare)
        else:
            await asyncio.to_thread(self._cut, start)
        return self._hierarchy.node_bytes(group, start.page_bytes)

    def _cut(self, start: seams.Start) -> None:
        """Give back what the start has beyond its size: of a file that nobody has mapped yet."""
        file = self._place(start) / worker.FILE_NAME
        try:
            if file.stat().st_size > start.size_bytes:
                os.truncate(file, start.size_bytes)
            if start.built_as:
                self._lead_to(file, start.lease_id)
        except OSError as error:
            raise seams.DriverError(f"cutting {start.mount_source}: {error}") from error

    def _lead_to(self, file: pathlib.Path, lease_id: seams.LeaseId) -> None:
        """Of a lease that version 0.1 admitted, kubelet mounts the link at the lease's path."""
        link = self._directory(lease_id) / worker.FILE_NAME
        if link.is_symlink():
            made = link.with_suffix(".made")
            made.unlink(missing_ok=True)
            made.symlink_to(file)
            made.replace(link)

    async def _run_worker(
        self, start: seams.Start, on_progress: Callable[[int], None], *, is_spare: bool
    ) -> None:
        node = -1 if start.preferred_node is None else start.preferred_node
        process = await self._workers.build(
            [
                str(hold.file_path(self._state_dir, start.pool)),
                str(start.size_bytes),
                str(start.page_bytes),
                str(self._place(start)),
                start.mount_source,
                str(node),
                str(self._group(start)),
                str(int(is_spare)),
            ]
        )
        assert process.stdout and process.stderr
        try:
            async for line in process.stdout:
                on_progress(int(line.split()[1]))
            message = (await process.stderr.read()).decode(errors="replace").strip()
            status = await process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await asyncio.to_thread(self._undo, start)
            raise
        finally:
            self._workers.refill()
        if status:
            await asyncio.to_thread(self._undo, start)
        if status == worker.EXIT_NO_PAGES:
            raise seams.NotEnoughMemory(
                f"{v1alpha1.format_bytes(start.size_bytes)} from pool {start.pool}: {message}"
            )
        if status:
            raise seams.DriverError(
                f"building {start.mount_source}: worker ended with status {status}: {message}"
            )

    def _undo(self, start: seams.Start) -> None:
        # A child of the worker may be at it still.
        self._hierarchy.end_processes(self._group(start))
        self.revoke(start)

    def revoke(self, start: seams.Start) -> None:
        """See `seams.Driver`."""
        try:
            with self._revoking:
                self._revoke(start, self._place(start))
        except OSError as error:
            raise seams.DriverError(f"revoking {start.mount_source}: {error}") from error

    def _revoke(self, start: seams.Start, directory: pathlib.Path) -> None:
        self._truncate(start)
        while mounted := self._mounted(directory):
            if mounted[-1].source != start.mount_source:
                if all(mount.source != start.mount_source for mount in mounted):
                    return
                raise seams.DriverError(
                    f"revoking {start.mount_source}: {mounted[-1].source} covers it at "
                    f"{directory}; revoke that first"
                )
            self._revoked_devices[start.mount_source] = mounted[-1].device
            file = directory / worker.FILE_NAME
            with contextlib.suppress(FileNotFoundError):
                place = os.open(file, os.O_PATH | os.O_CLOEXEC)
                self._resisting[start.built] = place
                self._truncate(start)
                file.unlink()
            mounts.detach(str(directory))

    def _truncate(self, start: seams.Start) -> None:
        """Truncate the file, unless a holder keeps the kernel from it: later, then.

        A file lease (fcntl(2), F_SETLEASE) would block an open without O_NONBLOCK for 45 s, or
        longer, if it is taken again and again. A program that runs from the file denies writers.
        """
        key = start.built
        # Out of everybody's reach meanwhile: once it is closed, its number is another file's.
        if (place := self._resisting.pop(key, None)) is None:
            return
        try:
            file = os.open(f"/proc/self/fd/{place}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.ftruncate(file, 0)
            finally:
                os.close(file)
        except OSError as error:
            self._resisting[key] = place
            log.info("not truncated yet", extra={"start": start.mount_source, "error": str(error)})
        else:
            os.close(place)

    def usage(self, start: seams.Start) -> seams.Usage:
        """See `seams.Driver`."""
        usage = self._hierarchy.charge(self._group(start), start.page_bytes)
        if usage.free:
            self._revoked_devices.pop(start.mount_source, None)
            self._forget(*start.built)
        return usage

    def look(self, starts: Sequence[seams.Start]) -> seams.Seen:
        """See `seams.Driver`."""
        return seams.Seen(
            attached=self._attached(),
            usage={start.built: self.usage(start) for start in starts},
            resisting=frozenset(self._resisting),
        )

    def _attached(self) -> Mapping[tuple[seams.LeaseId, int], int]:
        found: dict[tuple[seams.LeaseId, int], int] = {}
        for mount in mountinfo.read(fstype="hugetlbfs"):
            if mount.mountpoint.parent != self._leases or not mount.source.startswith("som:"):
                continue
            lease_id, _, number = mount.source.removeprefix("som:").rpartition(".")
            try:
                size_bytes = (mount.mountpoint / worker.FILE_NAME).stat().st_size
            except FileNotFoundError:
                size_bytes = 0
            found[seams.LeaseId(lease_id), int(number)] = size_bytes
        return found

    def statistics(self, start: seams.Start) -> None:
        """See `seams.Driver`: the kernel counts nothing by superblock."""

    def compact(self, pool: str, *, most_bytes: int) -> int:
        """See `seams.Driver`: all pages of a pool have one size, and each is whole."""
        return 0

    def promote(self, pool: str, *, most_bytes: int) -> seams.Promotion:
        """See `seams.Driver`: likewise."""
        return seams.Promotion(0, 0)

    def moves(self, pool: str) -> None:
        """See `seams.Driver`."""

    def culprits(self, start: seams.Start) -> Sequence[str]:
        """See `seams.Driver`."""
        device = self._revoked_devices.get(start.mount_source)
        for mount in self._mounted(self._place(start)):
            if mount.source == start.mount_source:
                device = mount.device
        return processes.holders(device)

    def end_builders(self) -> None:
        """See `seams.Driver`."""
        self._hierarchy.end_processes(self._hierarchy.som(self._state_dir))

    async def close(self) -> None:
        """See `seams.Driver`."""
        await self._workers.close()
        for key in list(self._resisting):
            self._forget(*key)

    def _forget(self, lease_id: seams.LeaseId, number: int) -> None:
        """Nothing is left to be truncated, or somebody else sees to it."""
        if (place := self._resisting.pop((lease_id, number), None)) is not None:
            os.close(place)

    def _directory(self, lease_id: seams.LeaseId) -> pathlib.Path:
        return self._leases / lease_id

    def _place(self, start: seams.Start) -> pathlib.Path:
        """Where it is attached: at the path of the lease that it was built for."""
        return self._directory(start.built[0])

    def _group(self, start: seams.Start) -> pathlib.Path:
        return self._hierarchy.pool(self._state_dir, start.pool) / str(start.slot)

    def _mounted(self, directory: pathlib.Path) -> list[mountinfo.Mount]:
        mounts_of_som = mountinfo.read(fstype="hugetlbfs")
        return [mount for mount in mounts_of_som if mount.mountpoint == directory]

"""A pool's hold: one hugetlbfs file, reserved and never populated, which keeps the free pages.

The kernel remembers reservations by file and cgroup, so the hold outlives the agent. It is as
long as what it reserves. Whoever changes its length locks it (flock) first.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Final

from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import errand, worker
from som_device_plugin.linux import cgroups, flocks, hugepages, mountinfo, mounts

LOCK_TIMEOUT_S: Final = 10.0
"""A worker has the lock while it swaps pages: milliseconds."""

ANSWER_TIMEOUT_S: Final = 10.0
"""A worker starts and reserves in milliseconds, on a machine that is not overloaded."""

_TRIES: Final = 3


def file_path(state_dir: pathlib.Path, pool: str) -> pathlib.Path:
    """The file of the pool's hold, seen from the driver that takes pages out of it."""
    return state_dir / "holds" / pool / "hold"


class Hold:
    """Implements `seams.Hold` for one pool."""

    def __init__(
        self, *, state_dir: pathlib.Path, pool: str, hierarchy: cgroups.Hierarchy, page_bytes: int
    ) -> None:
        self._file = file_path(state_dir, pool)
        self._source = f"som-hold:{pool}"
        self._hierarchy = hierarchy
        self._pool = hierarchy.pool(state_dir, pool)
        self._group = self._pool / "hold"
        self._page_bytes = page_bytes
        self._locked = -1

    def _prepare(self) -> None:
        """Mount the hold, of length 0. Idempotent."""
        self._hierarchy.create(self._group)
        directory = self._file.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._mounted():
                mount = mounts.build_hugetlbfs(
                    self._source,
                    {"pagesize": str(self._page_bytes), "nr_inodes": "2", "mode": "0700"},
                )
                try:
                    mounts.attach(mount, str(directory))
                finally:
                    os.close(mount)
            self._file.touch(mode=0o600)
        except OSError as error:
            raise seams.DriverError(f"making the hold {directory}: {error.strerror}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[seams.Holding]:
        """See `seams.Hold`."""
        # Who dies while it is made may leave a mount without the file.
        if not (self._mounted() and self._file.exists()):
            yield self._holding(0)
            return
        # Buffered, it would take a buffer of the page size.
        with self._file.open("r+b", buffering=0) as file:
            flocks.take(file.fileno(), f"the hold {self._file}", timeout_s=LOCK_TIMEOUT_S)
            self._locked = file.fileno()
            try:
                yield self._holding(os.fstat(self._locked).st_size)
            finally:
                self._locked = -1

    def _holding(self, free_bytes: int) -> seams.Holding:
        """With what starts hold by their cgroups: pages in use or promised.

        The pool's own cgroup adds up its children, a slot that somebody removed included.
        """
        charge = self._hierarchy.charge(self._pool, self._page_bytes)
        slots = self._hierarchy.slots(self._pool).values()
        held_bytes = max(
            sum(self._hierarchy.charge(slot, self._page_bytes).held_bytes for slot in slots),
            charge.current_bytes,
            charge.reserved_bytes - free_bytes,
        )
        return seams.Holding(free_bytes=free_bytes, held_bytes=held_bytes)

    def free_pages(self) -> Mapping[int, int]:
        """See `seams.Hold`: what is reserved is some of the machine's free pages."""
        return {
            node: hugepages.node_counts(self._page_bytes, node).free for node in hugepages.nodes()
        }

    def shrink(self, free_bytes: int, *, node: int | None = None) -> None:
        """See `seams.Hold`. What is reserved is on no node yet."""
        os.ftruncate(self._locked, free_bytes)

    def fill(self, node_bytes: Mapping[int, int]) -> None:
        """See `seams.Hold`."""
        pool_bytes = sum(node_bytes.values())
        self._prepare()
        for _ in range(_TRIES):
            with self.locked() as now:
                missing_bytes = pool_bytes - now.held_bytes - now.free_bytes
                if missing_bytes < 0:
                    self.shrink(max(pool_bytes - now.held_bytes, 0))
            available = hugepages.machine_counts(self._page_bytes).available
            within_reach = min(missing_bytes, available * self._page_bytes)
            if within_reach <= 0 or self._extend(within_reach):
                return

    def _extend(self, more_bytes: int) -> bool:
        """Reserve so much more, all of it or nothing; False: others were faster.

        By an amount and not up to a size: what a start takes out of the hold meanwhile is its own.
        """
        command = worker.command(
            "extend", str(self._file), str(more_bytes), *self._hierarchy.joining(self._group)
        )
        doing = f"extending the hold {self._file} by {more_bytes} bytes"
        return errand.run(command, doing=doing, timeout_s=ANSWER_TIMEOUT_S)

    def remove(self) -> None:
        """See `seams.Hold`."""
        while self._mounted():
            mounts.detach(str(self._file.parent))
        with contextlib.suppress(FileNotFoundError):
            self._file.parent.rmdir()
        self._hierarchy.remove_pool(self._pool)

    def _mounted(self) -> bool:
        return any(
            mount.mountpoint == self._file.parent and mount.source == self._source
            for mount in mountinfo.read(fstype="hugetlbfs")
        )

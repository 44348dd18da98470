"""The hold of huge pages in som.ko: pages that a worker gave to the pool there.

The kernel's pool is the hold, and nothing about its pages is kept anywhere else. To the machine
they stay in use, charged to the cgroup of the worker, until som.ko gives them back.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers.hugetlbfs import errand, worker
from som_device_plugin.drivers.kernel import abi, control
from som_device_plugin.drivers.kernel import pool as pools
from som_device_plugin.linux import cgroups, hugepages, modules

DONATE_TIMEOUT_S: Final = 60.0
"""The kernel zeroes what the worker maps: below a second for each GiB, but on a loaded machine."""

_TRIES: Final = 3

Donate = Callable[[int, int, int], bool]
"""(number of the pool, bytes, preferred NUMA node) -> False: no such pages were free."""


class Hold:
    """Implements `seams.Hold`. What starts hold are the quotas of leases.

    There is no lock: som.ko gives pages to a lease or back, never both, and refuses the loser.
    """

    def __init__(
        self,
        module: control.Module,
        *,
        state_dir: pathlib.Path,
        pool: str,
        hierarchy: cgroups.Hierarchy,
        page_bytes: int,
        donate: Donate | None = None,
    ) -> None:
        self._module = module
        self._pool = pools.Pool(module, state_dir=state_dir, pool=pool, source=abi.SOURCE_HUGETLB)
        self._name = pool
        self._hierarchy = hierarchy
        self._group = hierarchy.pool(state_dir, pool)
        self._page_bytes = page_bytes
        self._donate = donate or self._send_worker

    @contextlib.contextmanager
    def locked(self) -> Iterator[seams.Holding]:
        """See `seams.Hold`."""
        yield self._holding()

    def _holding(self) -> seams.Holding:
        """Nothing where som.ko is not loaded: it cannot be unloaded while it has a pool."""
        try:
            return self._pool.holding()
        except seams.DriverNotLoaded:
            return seams.Holding(free_bytes=0, held_bytes=0)

    def free_pages(self) -> Mapping[int, int]:
        """See `seams.Hold`: whole pages of which no lease holds any part."""
        is_extent = self._page_bytes == abi.EXTENT_BYTES
        return {
            node: info.free_extents if is_extent else info.free_bytes // self._page_bytes
            for node, info in self._by_node().items()
        }

    def _by_node(self) -> dict[int, abi.PoolInfo]:
        if (info := self._pool.info()) is None:
            return {}
        return {
            node: self._module.call(abi.PoolInfo(pool=info.pool, numa_node=node))
            for node in hugepages.nodes()
        }

    def shrink(self, free_bytes: int, *, node: int | None = None) -> None:
        """See `seams.Hold`.

        Raises:
            DriverError: leases hold a part of each page that is left, or got one meanwhile.
        """
        has = self._holding()
        if free_bytes == has.held_bytes == 0:
            self._pool.destroy()
            return
        more_bytes = has.free_bytes - free_bytes
        for span in self._pool.each_span():
            if more_bytes <= 0:
                return
            if not span.held_bytes and node in (None, span.node):
                self._pool.remove(span.start)
                more_bytes -= span.size_bytes
        if more_bytes > 0:
            raise seams.DriverError(
                f"giving back {v1alpha1.format_bytes(more_bytes)} more of pool {self._name}: "
                "containers hold a part of each page; it is tried again"
            )

    def fill(self, node_bytes: Mapping[int, int]) -> None:
        """See `seams.Hold`.

        Raises:
            DriverNotLoaded: som.ko is missing, or of another version.
        """
        if wrong := modules.wrong_som():
            # The kernel lets a module be replaced only when there is no pool in it.
            with contextlib.suppress(seams.RangeRefused):
                self._pool.destroy()
            raise seams.DriverNotLoaded(wrong)
        number = self._pool.make()
        self._hierarchy.create(self._group / "hold")
        for _ in range(_TRIES):
            has = self._holding()
            missing_bytes = sum(node_bytes.values()) - has.held_bytes - has.free_bytes
            if missing_bytes < 0:
                self.shrink(max(has.free_bytes + missing_bytes, 0))
            available = hugepages.machine_counts(self._page_bytes).available
            within_reach = min(missing_bytes, available * self._page_bytes)
            if within_reach <= 0 or self._extend(number, node_bytes, within_reach):
                return

    def _extend(self, number: int, node_bytes: Mapping[int, int], more_bytes: int) -> bool:
        """Donate so much more, where it lacks most first; False: others were faster."""
        infos = self._by_node()
        lacking = {
            node: wanted - infos[node].bytes if node in infos else wanted
            for node, wanted in node_bytes.items()
        }
        for node in sorted(lacking, key=lambda node: -lacking[node]):
            part_bytes = min(more_bytes, lacking[node])
            if part_bytes > 0:
                if not self._donate(number, part_bytes, node):
                    return False
                more_bytes -= part_bytes
        return True

    def _send_worker(self, number: int, size_bytes: int, node: int) -> bool:
        size = v1alpha1.format_bytes(size_bytes)
        doing = f"donating {size} of NUMA node {node} to pool {self._name}"
        try:
            control = self._module.open()
        except OSError as error:
            raise seams.DriverError(f"{doing}: opening som_ctl: {error.strerror}") from error
        arguments = (control, number, size_bytes, self._page_bytes, node)
        joining = self._hierarchy.joining(self._group / "hold")
        try:
            return errand.run(
                worker.command("donate", *map(str, arguments), *joining),
                doing=doing,
                timeout_s=DONATE_TIMEOUT_S,
                descriptors=(control,),
            )
        finally:
            os.close(control)

    def remove(self) -> None:
        """See `seams.Hold`."""
        with contextlib.suppress(seams.DriverNotLoaded):
            self._pool.destroy()
        self._hierarchy.remove_pool(self._group)

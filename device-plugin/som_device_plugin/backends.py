"""Which source of memory goes with which driver, and how both are made on this node.

The table below names all pairs; an order for any other is refused.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Final

from som_api import SomError, v1alpha1
from som_device_plugin import database, seams, state_dir
from som_device_plugin.drivers.hugetlbfs import driver as hugetlbfs
from som_device_plugin.drivers.kernel import control, donated
from som_device_plugin.drivers.kernel import driver as kernel
from som_device_plugin.linux import cgroups, mountinfo
from som_device_plugin.sources.hugetlb import counters, plan, records
from som_device_plugin.sources.hugetlb import source as hugetlb
from som_device_plugin.sources.ranges import carved, devdax, external
from som_device_plugin.sources.ranges import records as range_records
from som_device_plugin.sources.ranges import source as ranges


@dataclasses.dataclass(frozen=True)
class _Site:
    directory: pathlib.Path
    hierarchy: cgroups.Hierarchy
    boot_id: str
    guard: plan.Guard

    @functools.cached_property
    def hugetlbfs(self) -> hugetlbfs.HugeTLBFS:
        return hugetlbfs.HugeTLBFS(state_dir=self.directory, hierarchy=self.hierarchy)

    def range_records(self) -> range_records.RangeRecords:
        """On a connection of its own: sources work in threads of their own."""
        connection = database.open_database(self.directory / state_dir.STORE)
        return range_records.RangeRecords(connection, boot_id=self.boot_id)

    @functools.cached_property
    def kernel(self) -> kernel.Kernel:
        return kernel.Kernel(state_dir=self.directory)

    def donated(self, pool: str, page_bytes: int) -> donated.Hold:
        return donated.Hold(
            control.Module(),
            state_dir=self.directory,
            pool=pool,
            hierarchy=self.hierarchy,
            page_bytes=page_bytes,
        )

    @functools.cached_property
    def hugetlb(self) -> seams.Source:
        """One for both drivers, because the machine has one counter for the pages of all pools."""
        connection = database.open_database(self.directory / state_dir.STORE)
        page_records = records.PageRecords(connection, boot_id=self.boot_id)
        page_counters = counters.Counters(
            page_records,
            guard=self.guard,
            # A cgroup is the same for all agents of the machine, whatever else of the host they
            # see.
            lock=self.hierarchy.root / "som.lock",
            neighbours_bytes=functools.partial(self.hierarchy.neighbours_bytes, self.directory),
        )
        return hugetlb.HugeTLBSource(
            page_records,
            page_counters,
            hold_of={"HugeTLBFS": self.hugetlbfs.hold, "Kernel": self.donated},
        )


def _hugetlb(site: _Site) -> seams.Source:
    return site.hugetlb


def _dev_dax(site: _Site) -> seams.Source:
    return _ranges(site, "DevDax", devdax.DevDax(site.range_records()))


def _external(site: _Site) -> seams.Source:
    return _ranges(site, "External", external.External())


def _carved(site: _Site) -> seams.Source:
    return _ranges(site, "Carved", carved.Carved(site.range_records(), guard=site.guard))


def _ranges(site: _Site, kind: str, supply: ranges.Supply) -> seams.Source:
    return ranges.RangeSource(supply, hold_of=lambda pool: site.kernel.ranges(pool, kind))


_SOURCES: Final[Mapping[tuple[str, str], Callable[[_Site], seams.Source]]] = {
    ("HugeTLB", "HugeTLBFS"): _hugetlb,
    ("HugeTLB", "Kernel"): _hugetlb,
    ("DevDax", "Kernel"): _dev_dax,
    ("External", "Kernel"): _external,
    ("Carved", "Kernel"): _carved,
}


class _Unserved:
    """Implements `seams.Source` for a pair that is not in the table."""

    def __init__(self, source: str, driver: str) -> None:
        self._why = (
            f"this agent cannot serve source {source} with driver {driver}; choose another pair, "
            "or see that the agent's version is the operator's"
        )

    async def reserved(self, pool: str) -> seams.PoolReserved:
        return seams.PoolReserved(pool)

    async def apply(self, pool: v1alpha1.NodePool, **_: object) -> seams.PoolReserved:
        raise SomError(self._why)

    async def release(self, pool: str) -> None:
        pass

    async def refill(self, pool: str) -> seams.PoolReserved:
        return seams.PoolReserved(pool)

    async def check(self) -> tuple[list[seams.Event], list[seams.PoolReserved]]:
        return [], []


class Backends:
    """The node's drivers by name, and the backend of each order; each is made once.

    Raises:
        CgroupError: the machine has no hugetlb controller; with the cure.
        DatabaseError: the store in `directory` cannot be used.
    """

    def __init__(self, directory: pathlib.Path, *, boot_id: str, guard: plan.Guard) -> None:
        site = _Site(directory.resolve(), cgroups.find(mountinfo.read()), boot_id, guard)
        both: tuple[seams.Driver, ...] = (site.hugetlbfs, site.kernel)
        self.drivers = {driver.name: driver for driver in both}
        self._sources = {pair: make(site) for pair, make in _SOURCES.items()}

    def of(self, order: v1alpha1.NodePool) -> seams.Backend:
        """The backend of a pool."""
        pair = order.source.kind, order.driver
        if pair not in self._sources:
            self._sources[pair] = _Unserved(*pair)
        return seams.Backend(self._sources[pair], self.drivers[order.driver])

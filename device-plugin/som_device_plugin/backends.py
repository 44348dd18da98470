"""Which source of memory goes with which driver, and how both are made on this node.

The two tables are the whole choice: who adds a source or a driver adds it here.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Final

from som_api import v1alpha1
from som_device_plugin import database, seams
from som_device_plugin.drivers.hugetlbfs import driver as hugetlbfs
from som_device_plugin.linux import cgroups
from som_device_plugin.sources.hugetlb import counters, plan, records
from som_device_plugin.sources.hugetlb import source as hugetlb


@dataclasses.dataclass(frozen=True)
class Site:
    """Where sources and drivers work: `store` is the agent's database, `hierarchy` the node's."""

    state_dir: pathlib.Path
    store: pathlib.Path
    boot_id: str
    guard: plan.Guard
    hierarchy: cgroups.Hierarchy


def _hugetlbfs(site: Site) -> seams.Driver:
    return hugetlbfs.HugeTLBFS(state_dir=site.state_dir, hierarchy=site.hierarchy)


def _hugetlb(site: Site, driver: seams.Driver) -> seams.Source:
    page_records = records.PageRecords(database.open_database(site.store), boot_id=site.boot_id)
    page_counters = counters.Counters(
        page_records,
        guard=site.guard,
        # A cgroup is the same for all agents of the machine, whatever else of the host they see.
        lock=site.hierarchy.root / "som.lock",
        neighbours_bytes=functools.partial(
            site.hierarchy.neighbours_bytes, site.state_dir.resolve()
        ),
    )
    return hugetlb.HugeTLBSource(page_records, page_counters, driver=driver)


_DRIVERS: Final[Mapping[str, Callable[[Site], seams.Driver]]] = {"HugeTLBFS": _hugetlbfs}
_SOURCES: Final[Mapping[tuple[str, str], Callable[[Site, seams.Driver], seams.Source]]] = {
    ("HugeTLB", "HugeTLBFS"): _hugetlb,
}


class Backends:
    """The node's drivers by name, and the backend of each order; each is made once."""

    def __init__(self, site: Site) -> None:
        self.drivers = {name: make(site) for name, make in _DRIVERS.items()}
        self._made = {
            (source, driver): seams.Backend(
                source=make(site, self.drivers[driver]), driver=self.drivers[driver]
            )
            for (source, driver), make in _SOURCES.items()
        }

    def of(self, _order: v1alpha1.NodePool) -> seams.Backend:
        """The backend of a pool: an order can name no other yet."""
        return self._made["HugeTLB", "HugeTLBFS"]

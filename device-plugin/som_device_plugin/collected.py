"""Metrics that are read from pools and leases at each scrape."""

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import core, registry

from som_device_plugin import pools, status
from som_device_plugin.leases import reconciler, state, store

MOST_HELD_PODS: Final = 20


class Collected(registry.Collector):
    """What one agent has, in numbers."""

    def __init__(
        self,
        own_pools: pools.Pools,
        leases: store.LeaseStore,
        own_reconciler: reconciler.Reconciler,
    ) -> None:
        self._pools = own_pools
        self._leases = leases
        self._reconciler = own_reconciler

    def describe(self) -> Iterable[core.Metric]:
        """Nothing: the registry must not scrape a state that does not exist yet."""
        return ()

    def collect(self) -> Iterator[core.Metric]:
        leases = self._leases.leases()
        pool_bytes = core.GaugeMetricFamily(
            "som_agent_pool_bytes", "Memory of a pool by state", labels=["pool", "state"]
        )
        shortfall = core.GaugeMetricFamily(
            "som_agent_pool_shortfall_bytes", "Ordered, and not obtained", labels=["pool"]
        )
        for pool in self._pools.pools().values():
            allocated = status.allocated_bytes(pool.name, leases)
            pool_bytes.add_metric([pool.name, "free"], pool.free_bytes)
            pool_bytes.add_metric([pool.name, "allocated"], allocated)
            shortfall.add_metric([pool.name], max(0, pool.order.capacity - pool.capacity_bytes))
        yield pool_bytes
        yield shortfall
        starts = core.GaugeMetricFamily(
            "som_agent_lease_starts", "Starts of leases by state", labels=["state"]
        )
        states = collections.Counter(record.state for lease in leases for record in lease.starts)
        for each in state.State:
            starts.add_metric([each.value], states[each])
        yield starts
        lease_bytes = core.GaugeMetricFamily(
            "som_lease_bytes",
            "Memory that a container holds, which cAdvisor does not see",
            labels=["namespace", "pod", "container", "pool"],
        )
        # A pod that was recreated has the labels of the one before it.
        by_owner: collections.Counter[tuple[str, ...]] = collections.Counter()
        for lease in leases:
            if lease.owner is not None and (record := lease.live) is not None:
                by_owner[*lease.owner.names, record.start.pool] += record.start.size_bytes
        for labels, size_bytes in by_owner.items():
            lease_bytes.add_metric(labels, size_bytes)
        yield lease_bytes
        held_bytes = core.GaugeMetricFamily(
            "som_agent_held_bytes",
            "Memory of ended leases that somebody still holds, by its last owner; "
            "of most owners, who are many, only by namespace",
            labels=["namespace", "pod"],
        )
        for labels, size_bytes in by_last_owner(self._reconciler.held.values()).items():
            held_bytes.add_metric(labels, size_bytes)
        yield held_bytes


def by_last_owner(held: Iterable[reconciler.Held]) -> Mapping[tuple[str, str], int]:
    """Bytes by namespace and pod: of pods, which come and go, the largest alone have a name."""
    by_pod: collections.Counter[tuple[str, str]] = collections.Counter()
    for each in held:
        if each.owner is not None:
            by_pod[each.owner.namespace, each.owner.pod] += each.size_bytes
    named = dict(by_pod.most_common(MOST_HELD_PODS))
    for (namespace, pod), size_bytes in by_pod.items():
        if (namespace, pod) not in named:
            named[namespace, ""] = named.get((namespace, ""), 0) + size_bytes
    return named

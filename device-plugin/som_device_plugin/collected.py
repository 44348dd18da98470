"""Metrics that are read from pools and leases at each scrape."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import core, registry

from som_api import SomError
from som_device_plugin import loops, pools, seams, status
from som_device_plugin.leases import reconciler, spares, starts, state, store

MOST_HELD_PODS: Final = 20


class Collected(registry.Collector):
    """What one agent has, in numbers."""

    def __init__(
        self,
        own_pools: pools.Pools,
        leases: store.LeaseStore,
        own_reconciler: reconciler.Reconciler,
        own_starts: starts.Starts,
    ) -> None:
        self._pools = own_pools
        self._leases = leases
        self._reconciler = own_reconciler
        self._starts = own_starts

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
            pool_bytes.add_metric([pool.name, "free"], status.free_bytes(pool, leases))
            pool_bytes.add_metric([pool.name, "allocated"], allocated)
            shortfall.add_metric([pool.name], max(0, pool.order.capacity - pool.capacity_bytes))
        yield pool_bytes
        yield shortfall
        yield from by_spares((name, spares.of_pool(leases, name)) for name in self._pools.pools())
        yield from by_moves(self._moves())
        by_state = core.GaugeMetricFamily(
            "som_agent_lease_starts", "Starts of leases by state", labels=["state"]
        )
        states = collections.Counter(
            record.state for lease in leases if lease.owner for record in lease.starts
        )
        for each in state.State:
            by_state.add_metric([each.value], states[each])
        yield by_state
        lease_bytes = core.GaugeMetricFamily(
            "som_lease_bytes",
            "Memory that a container holds, which cAdvisor does not see",
            labels=["namespace", "pod", "container", "pool"],
        )
        # A pod that was recreated has the labels of the one before it.
        by_owner: collections.Counter[tuple[str, ...]] = collections.Counter()
        for lease in leases:
            if lease.owner and not lease.is_spare and (record := lease.live) is not None:
                by_owner[*lease.owner.names, record.start.pool] += record.start.size_bytes
        for labels, size_bytes in by_owner.items():
            lease_bytes.add_metric(labels, size_bytes)
        yield lease_bytes
        yield from by_use(self._used_by_owner(leases))
        held_bytes = core.GaugeMetricFamily(
            "som_agent_held_bytes",
            "Memory of ended leases that somebody still holds, by its last owner; "
            "of most owners, who are many, only by namespace",
            labels=["namespace", "pod"],
        )
        for labels, size_bytes in by_last_owner(self._reconciler.held.values()).items():
            held_bytes.add_metric(labels, size_bytes)
        yield held_bytes
        yield core.GaugeMetricFamily(
            "som_agent_held_age_seconds",
            "How long memory of an ended lease has been held, the oldest; 0 when none is",
            self._reconciler.longest_held_s,
        )

    def _moves(self) -> Iterator[tuple[str, seams.Moves]]:
        for pool in self._pools.pools().values():
            try:
                found = self._starts.driver(pool).moves(pool.name)
            except SomError as error:
                loops.failed("moves", error, pool=pool.name)
            else:
                if found is not None:
                    yield pool.name, found

    def _used_by_owner(
        self, leases: Iterable[state.Lease]
    ) -> Iterator[tuple[tuple[str, ...], seams.Statistics]]:
        for lease in leases:
            if lease.owner is None or lease.is_spare or (record := lease.live) is None:
                continue
            try:
                found = self._starts.statistics(record.start)
            except SomError as error:
                # What else is known is told all the same.
                loops.failed("statistics", error, lease=lease.lease_id)
            else:
                if found is not None:
                    yield (*lease.owner.names, record.start.pool), found


def by_spares(found: Iterable[tuple[str, Sequence[spares.Spare]]]) -> Iterator[core.Metric]:
    """What of a pool's free memory is worth more than zeroing it again."""
    spare_bytes = core.GaugeMetricFamily(
        "som_agent_pool_spare_bytes",
        "Free memory of a pool that is zeroed ahead, or being zeroed",
        labels=["pool"],
    )
    kept_bytes = core.GaugeMetricFamily(
        "som_agent_pool_kept_bytes",
        "Free memory of a pool with what pods left for their successors",
        labels=["pool"],
    )
    for pool, here in found:
        kept = sum(spare.size_bytes for spare in here if spare.is_kept)
        kept_bytes.add_metric([pool], kept)
        spare_bytes.add_metric([pool], sum(spare.size_bytes for spare in here) - kept)
    yield from (spare_bytes, kept_bytes)


def by_moves(moved: Iterable[tuple[str, seams.Moves]]) -> Iterator[core.Metric]:
    """What was moved, by pool."""
    moved_bytes = core.CounterMetricFamily(
        "som_agent_pool_moved_bytes",
        "Memory that som.ko moved under containers, for whole GiB or for a pool that shrinks",
        labels=["pool"],
    )
    failed = core.CounterMetricFamily(
        "som_agent_pool_failed_moves",
        "Moves of 2 MiB that were given up, because memory failed meanwhile",
        labels=["pool"],
    )
    for pool, found in moved:
        moved_bytes.add_metric([pool], found.moved_bytes)
        failed.add_metric([pool], found.failed)
    yield from (moved_bytes, failed)


def by_use(used: Iterable[tuple[tuple[str, ...], seams.Statistics]]) -> Iterator[core.Metric]:
    """What containers do with their memory, by owner and pool: those of the same name as one."""
    used_bytes = core.GaugeMetricFamily(
        "som_agent_lease_used_bytes",
        "Memory behind mappings of a container, where som.ko serves its pool",
        labels=["namespace", "pod", "container", "pool"],
    )
    peak_bytes = core.GaugeMetricFamily(
        "som_agent_lease_peak_bytes",
        "Most memory behind its mappings so far",
        labels=["namespace", "pod", "container", "pool"],
    )
    faults_2m = core.CounterMetricFamily(
        "som_agent_lease_faults_2m",
        "Page faults that som.ko answered with 2 MiB",
        labels=["namespace", "pod", "container", "pool"],
    )
    faults_1g = core.CounterMetricFamily(
        "som_agent_lease_faults_1g",
        "Page faults that som.ko answered with 1 GiB",
        labels=["namespace", "pod", "container", "pool"],
    )
    zeroed_late_bytes = core.CounterMetricFamily(
        "som_agent_lease_zeroed_late_bytes",
        "Memory that was zeroed while a page fault waited",
        labels=["namespace", "pod", "container", "pool"],
    )
    sums: dict[tuple[str, ...], collections.Counter[str]] = {}
    for labels, found in used:
        sums.setdefault(labels, collections.Counter()).update(dataclasses.asdict(found))
    for labels, sum_of in sums.items():
        used_bytes.add_metric(labels, sum_of["used_bytes"])
        peak_bytes.add_metric(labels, sum_of["peak_bytes"])
        faults_2m.add_metric(labels, sum_of["faults_2m"])
        faults_1g.add_metric(labels, sum_of["faults_1g"])
        zeroed_late_bytes.add_metric(labels, sum_of["zeroed_late_bytes"])
    yield from (used_bytes, peak_bytes, faults_2m, faults_1g, zeroed_late_bytes)


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

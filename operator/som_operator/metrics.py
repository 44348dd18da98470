"""What the operator counts, for Prometheus."""

import time
from collections.abc import Iterator

import prometheus_client
from prometheus_client import core, registry

from som_api import VERSION, SomError
from som_api.run import workqueue
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.overview import Overview

Reconcile = workqueue.Reconcile[str]


class Reconciles:
    """Counts and times reconciles by controller; calling it wraps a reconcile function."""

    def __init__(self, into: registry.CollectorRegistry) -> None:
        by_controller = ["controller"]
        self._total = prometheus_client.Counter(
            "som_operator_reconciles", "Reconciles begun", by_controller, registry=into
        )
        self._failed = prometheus_client.Counter(
            "som_operator_reconcile_failures", "Reconciles failed", by_controller, registry=into
        )
        self._seconds = prometheus_client.Histogram(
            "som_operator_reconcile_seconds",
            "Duration of a reconcile",
            by_controller,
            registry=into,
        )

    def __call__(self, controller: str, reconcile: Reconcile) -> Reconcile:
        total = self._total.labels(controller)
        failed, seconds = self._failed.labels(controller), self._seconds.labels(controller)

        async def measured(key: str) -> float | None:
            started_s = time.perf_counter()
            total.inc()
            try:
                delay_s = await reconcile(key)
            except Exception as error:
                if not (isinstance(error, SomError) and error.is_race):
                    failed.inc()
                raise
            seconds.observe(time.perf_counter() - started_s)
            return delay_s

        return measured


class FleetCollector(registry.Collector):
    """Pools and nodes by state, counted when asked."""

    def __init__(self, fleet: Fleet, overview: Overview, agents: Agents) -> None:
        self._fleet = fleet
        self._overview = overview
        self._agents = agents

    def collect(self) -> Iterator[core.Metric]:
        fleet = self._fleet
        pools = core.GaugeMetricFamily(
            "som_operator_pools",
            "SomPools by the reason of their condition Ready",
            labels=["reason"],
        )
        reasons: dict[str, int] = {}
        for name in fleet.pool_names:
            pool = fleet.sompool(name)
            conditions = pool.status.conditions if pool else ()
            reason = next((c.reason for c in conditions if c.type == "Ready"), "Unknown")
            reasons[reason] = reasons.get(reason, 0) + 1
        for reason, count in sorted(reasons.items()):
            pools.add_metric([reason], count)
        yield pools
        nodes = core.GaugeMetricFamily(
            "som_operator_pool_nodes", "Nodes by pool and state", labels=["pool", "state"]
        )
        for pool_name, state, count in self._overview.counts():
            nodes.add_metric([pool_name, state.value], count)
        yield nodes
        yield core.GaugeMetricFamily("som_operator_nodes", "Nodes known", len(fleet.nodes))
        yield core.GaugeMetricFamily(
            "som_operator_nodes_without_agent",
            "Nodes whose kubelet is ready and whose agent is not, for longer than a restart takes",
            len(self._agents.lost & fleet.somnodes.keys()),
        )
        build = core.InfoMetricFamily("som_operator_build", "Version of the operator")
        build.add_metric([], {"version": VERSION})
        yield build

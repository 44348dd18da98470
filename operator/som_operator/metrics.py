"""What the operator counts, for Prometheus."""

import contextlib
import datetime
import time
from collections.abc import Iterator

import prometheus_client
from prometheus_client import core, registry

from som_api import VERSION, SomError, kube
from som_api.run import workqueue
from som_api.web import counting
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
    """Pools and nodes by state, counted when asked: by the leader alone."""

    def __init__(self) -> None:
        self._seen: tuple[Fleet, Overview, Agents] | None = None

    @contextlib.contextmanager
    def of(self, fleet: Fleet, overview: Overview, agents: Agents) -> Iterator[None]:
        """Count these inside the block."""
        self._seen = fleet, overview, agents
        try:
            yield
        finally:
            self._seen = None

    def collect(self) -> Iterator[core.Metric]:
        build = core.InfoMetricFamily("som_operator_build", "Version of the operator")
        build.add_metric([], {"version": VERSION})
        yield build
        if self._seen is not None:
            yield from _counted(*self._seen)


def _counted(fleet: Fleet, overview: Overview, agents: Agents) -> Iterator[core.Metric]:
    pools = core.GaugeMetricFamily(
        "som_operator_pools",
        "SomPools by the reason of their condition Ready; as all that counts the fleet, from the "
        "leader alone",
        labels=["reason"],
    )
    releases = core.GaugeMetricFamily(
        "som_operator_pool_release_age_seconds",
        "How long a SomPool has been being deleted",
        labels=["pool"],
    )
    reasons: dict[str, int] = {}
    for name in fleet.pool_names:
        pool = fleet.sompool(name)
        if pool and (since := pool.metadata.deletion_timestamp):
            releases.add_metric(
                [name], time.time() - datetime.datetime.fromisoformat(since).timestamp()
            )
        conditions = pool.status.conditions if pool else ()
        reason = next((c.reason for c in conditions if c.type == "Ready"), "Unknown")
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        pools.add_metric([reason], count)
    yield pools
    yield releases
    nodes = core.GaugeMetricFamily(
        "som_operator_pool_nodes", "Nodes by pool and state", labels=["pool", "state"]
    )
    for pool_name, state, count in overview.counts():
        nodes.add_metric([pool_name, state.value], count)
    yield nodes
    yield core.GaugeMetricFamily("som_operator_nodes", "Nodes known", len(fleet.nodes))
    yield core.GaugeMetricFamily(
        "som_operator_nodes_without_agent",
        "Nodes whose kubelet is ready and whose agent is not, for longer than a restart takes",
        len(agents.lost & fleet.somnodes.keys()),
    )


class ElectionCollector(registry.Collector):
    """Who leads."""

    def __init__(self, election: kube.Election) -> None:
        self._election = election

    def collect(self) -> Iterator[core.Metric]:
        yield core.GaugeMetricFamily(
            "som_operator_leader", "1 in the replica that leads, else 0", self._election.is_leader
        )
        yield core.CounterMetricFamily(
            "som_operator_leader_changes",
            "How often this replica began or ceased to lead",
            self._election.changes,
        )


class AnswersCollector(registry.Collector):
    """What fleet API and page have answered."""

    def __init__(self, answers: counting.Answers) -> None:
        self._answers = answers

    def collect(self) -> Iterator[core.Metric]:
        family = core.CounterMetricFamily(
            "som_operator_web_requests",
            "Requests to fleet API and page by route (none: no path of theirs) and HTTP's status; "
            "a stream counts when it begins",
            labels=["route", "code"],
        )
        for (route, status), count in sorted(self._answers.items()):
            family.add_metric([route, str(status)], count)
        yield family

"""What the runtime knows of itself, for Prometheus: what one asks for first when all is still."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from prometheus_client import core, registry

from som_api.kube import events, reflector
from som_api.run import workqueue

Family = TypeVar("Family", bound=core.Metric)


class Collector(registry.Collector):
    """Watches, queues and Events of one component (`agent`, `operator`), counted when asked.

    The metrics are named `som_<component>_...`.
    """

    def __init__(
        self,
        component: str,
        *,
        watches: Sequence[reflector.Reflector[Any]],
        queues: Sequence[workqueue.WorkQueue[Any]] = (),
        recorder: events.Recorder,
    ) -> None:
        self._component = component
        self._watches = watches
        self._queues = queues
        self._recorder = recorder

    def collect(self) -> Iterator[core.Metric]:
        yield from self._of_watches()
        if self._queues:
            yield from self._of_queues()
        dropped = self._named(
            core.CounterMetricFamily(
                "som_component_events_dropped", "Events lost: too many waited, or refused"
            )
        )
        dropped.add_metric([], self._recorder.dropped)
        yield dropped

    def _of_watches(self) -> Iterator[core.Metric]:
        age = self._named(
            core.GaugeMetricFamily(
                "som_component_watch_age_seconds",
                "Since the API server was last heard about a kind: how old what is known may be",
                labels=["resource"],
            )
        )
        lost = self._named(
            core.CounterMetricFamily(
                "som_component_watch_failures", "Lists and watches that failed", labels=["resource"]
            )
        )
        unreadable = self._named(
            core.GaugeMetricFamily(
                "som_component_unreadable_objects",
                "Objects that exist and cannot be read; the log names them",
                labels=["resource"],
            )
        )
        for watch in self._watches:
            label = [watch.resource.plural]
            age.add_metric(label, watch.age_s)
            lost.add_metric(label, watch.failures)
            unreadable.add_metric(label, len(watch.unreadable))
        yield from (age, lost, unreadable)

    def _of_queues(self) -> Iterator[core.Metric]:
        depth = self._named(
            core.GaugeMetricFamily(
                "som_component_queue_keys", "Keys that wait to be reconciled", labels=["queue"]
            )
        )
        age = self._named(
            core.GaugeMetricFamily(
                "som_component_queue_age_seconds",
                "How long the first key in line has waited",
                labels=["queue"],
            )
        )
        retries = self._named(
            core.CounterMetricFamily(
                "som_component_queue_retries",
                "Reconciles that failed and were put back, conflicts included",
                labels=["queue"],
            )
        )
        for queue in self._queues:
            depth.add_metric([queue.name], queue.depth)
            age.add_metric([queue.name], queue.age_s)
            retries.add_metric([queue.name], queue.retries)
        yield from (depth, age, retries)

    def _named(self, family: Family) -> Family:
        family.name = family.name.replace("_component_", f"_{self._component}_")
        return family

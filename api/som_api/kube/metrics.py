"""What the runtime knows of itself, for Prometheus: what one asks for first when all is still."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import core, registry

from som_api.kube import events, reflector
from som_api.run import workqueue

Family = core.GaugeMetricFamily | core.CounterMetricFamily


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
        for family, values in self._counted():
            family.name = family.name.replace("_component_", f"_{self._component}_")
            for label, value in values.items():
                family.add_metric([label] if label else [], value)
            yield family

    def _counted(self) -> Iterator[tuple[Family, Mapping[str, float]]]:
        """Each family with its values by label."""
        watches = {watch.resource.plural: watch for watch in self._watches}
        yield (
            core.GaugeMetricFamily(
                "som_component_watch_age_seconds",
                "Since the API server was last heard about a kind: how old what is known may be",
                labels=["resource"],
            ),
            {kind: watch.age_s for kind, watch in watches.items()},
        )
        yield (
            core.CounterMetricFamily(
                "som_component_watch_failures", "Lists and watches that failed", labels=["resource"]
            ),
            {kind: watch.failures for kind, watch in watches.items()},
        )
        yield (
            core.GaugeMetricFamily(
                "som_component_unreadable_objects",
                "Objects that exist and cannot be read; the log names them",
                labels=["resource"],
            ),
            {kind: len(watch.unreadable) for kind, watch in watches.items()},
        )
        if queues := {queue.name: queue for queue in self._queues}:
            yield (
                core.GaugeMetricFamily(
                    "som_component_queue_keys", "Keys that wait to be reconciled", labels=["queue"]
                ),
                {name: queue.depth for name, queue in queues.items()},
            )
            yield (
                core.GaugeMetricFamily(
                    "som_component_queue_age_seconds",
                    "How long the first key in line has waited",
                    labels=["queue"],
                ),
                {name: queue.age_s for name, queue in queues.items()},
            )
            yield (
                core.CounterMetricFamily(
                    "som_component_queue_retries",
                    "Reconciles that failed and were put back, conflicts included",
                    labels=["queue"],
                ),
                {name: queue.retries for name, queue in queues.items()},
            )
        yield (
            core.CounterMetricFamily(
                "som_component_events_dropped", "Events lost: too many waited, or refused"
            ),
            {"": self._recorder.dropped},
        )

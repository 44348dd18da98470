"""What the runtime knows of itself, for Prometheus: what one asks for first when all is still."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import core, registry

from som_api.kube import events, reflector, requests
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
        asked: requests.Requests,
    ) -> None:
        self._component = component
        self._watches = watches
        self._queues = queues
        self._recorder = recorder
        self._requests = asked

    def collect(self) -> Iterator[core.Metric]:
        for family, values in self._counted():
            family.name = family.name.replace("_component_", f"_{self._component}_")
            for label, value in values.items():
                family.add_metric([label] if label else [], value)
            yield family
        yield from self._asked()
        if self._queues:
            yield from self._waited()

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

    def _asked(self) -> Iterator[core.Metric]:
        """What was asked of the API server."""
        counted = core.CounterMetricFamily(
            "som_component_api_requests",
            "Requests to the API server by code: ok, HTTP's status, none without an answer",
            labels=["verb", "code"],
        )
        seconds = core.HistogramMetricFamily(
            "som_component_api_request_seconds",
            "Time until the API server had answered, for WATCH until the answer began",
            labels=["verb"],
        )
        for family in (counted, seconds):
            family.name = family.name.replace("_component_", f"_{self._component}_")
        for labels, count in sorted(self._requests.codes.items()):
            counted.add_metric(labels, count)
        for verb, took in sorted(self._requests.took.items()):
            seconds.add_metric([verb], took.buckets(), took.sum_s)
        yield from (counted, seconds)

    def _waited(self) -> Iterator[core.Metric]:
        """How long keys waited in queues."""
        waited = core.HistogramMetricFamily(
            "som_component_queue_wait_seconds",
            "How long keys had waited when a worker took them",
            labels=["queue"],
        )
        waited.name = waited.name.replace("_component_", f"_{self._component}_")
        for queue in self._queues:
            waited.add_metric([queue.name], queue.waited.buckets(), queue.waited.sum_s)
        yield waited

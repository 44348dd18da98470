"""What the runtime tells Prometheus about itself."""

import prometheus_client
from prometheus_client import registry

from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from som_api import kube
from som_api.run import workqueue
from unit.kube.watching import Watching, node
from waiting import until


async def test_a_component_tells_how_old_and_how_full_what_it_knows_is(
    server: FakeApiServer, client: kube.Client
) -> None:
    clock = FakeClock()

    queue = workqueue.WorkQueue[str](name="node", time=clock)
    queue.add("n1")
    recorder = kube.Recorder(client, component="som-operator", instance="operator", time=clock)
    server.put("v1", "nodes", node("poison", "unreadable"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        collected = registry.CollectorRegistry()
        collected.register(
            kube.Collector(
                "operator", watches=[watching.reflector], queues=[queue], recorder=recorder
            )
        )
        await until(lambda: "watch" in server.verbs())
        await until(lambda: watching.reflector.age_s == 0)
        await clock.advance(7)
        told = prometheus_client.generate_latest(collected).decode()
    for line in (
        'som_operator_watch_age_seconds{resource="nodes"} 7.0',
        'som_operator_watch_failures_total{resource="nodes"} 0.0',
        'som_operator_unreadable_objects{resource="nodes"} 1.0',
        'som_operator_queue_keys{queue="node"} 1.0',
        'som_operator_queue_age_seconds{queue="node"} 7.0',
        'som_operator_queue_retries_total{queue="node"} 0.0',
        "som_operator_events_dropped_total 0.0",
    ):
        assert line in told.splitlines()

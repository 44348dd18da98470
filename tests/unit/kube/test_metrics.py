"""What the runtime tells Prometheus about itself."""

import asyncio

import prometheus_client
import pytest
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
    queue.add("n2")
    working = asyncio.create_task(queue.run(lambda _: asyncio.Event().wait()))
    recorder = kube.Recorder(client, component="som-operator", instance="operator", time=clock)
    server.put("v1", "nodes", node("poison", "unreadable"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        collected = registry.CollectorRegistry()
        collected.register(
            kube.Collector(
                "operator",
                watches=[watching.reflector],
                queues=[queue],
                recorder=recorder,
                asked=client.requests,
            )
        )
        await until(lambda: "watch" in server.verbs())
        await until(lambda: watching.reflector.age_s == 0)
        await clock.advance(7)
        with pytest.raises(kube.KubeError):
            await client.get("/api/v1/nodes/none")
        told = prometheus_client.generate_latest(collected).decode()
        working.cancel()
    for line in (
        'som_operator_watch_age_seconds{resource="nodes"} 7.0',
        'som_operator_watch_failures_total{resource="nodes"} 0.0',
        'som_operator_unreadable_objects{resource="nodes"} 1.0',
        'som_operator_queue_keys{queue="node"} 1.0',
        'som_operator_queue_age_seconds{queue="node"} 7.0',
        'som_operator_queue_retries_total{queue="node"} 0.0',
        'som_operator_queue_wait_seconds_bucket{le="0.005",queue="node"} 1.0',
        'som_operator_queue_wait_seconds_count{queue="node"} 1.0',
        "som_operator_events_dropped_total 0.0",
        'som_operator_api_requests_total{code="ok",verb="GET"} 1.0',
        'som_operator_api_requests_total{code="404",verb="GET"} 1.0',
        'som_operator_api_requests_total{code="ok",verb="WATCH"} 1.0',
        'som_operator_api_request_seconds_bucket{le="+Inf",verb="GET"} 2.0',
        'som_operator_api_request_seconds_count{verb="WATCH"} 1.0',
    ):
        assert line in told.splitlines()

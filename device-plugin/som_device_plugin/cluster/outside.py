"""The agent's neighbours, connected and kept running."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator

from prometheus_client import registry

from som_api import VERSION, kube
from som_api.run import heartbeats
from som_device_plugin import seams
from som_device_plugin.cluster import orders, pods, reporter


@contextlib.asynccontextmanager
async def outside(
    *,
    node_name: str,
    kubeconfig: pathlib.Path | None = None,
    beats: heartbeats.Heartbeats | None = None,
) -> AsyncIterator[seams.Outside]:
    """Orders, pods and reports of the node `node_name`, kept current inside the block.

    Needs no API server that answers: whatever the agent knows stands until one does.

    Raises:
        KubeError: there is no way to find the API server or to log in; names the file.
    """
    client = await kube.connect(user_agent=f"som-agent/{VERSION}", kubeconfig=kubeconfig)
    async with client, asyncio.TaskGroup() as tasks:
        recorder = kube.Recorder(client, component="som-agent", instance=node_name)
        ordered = orders.NodeOrders(client, node_name=node_name, beats=beats)
        reports = reporter.StatusReporter(client, recorder, node_name=node_name, ordered=ordered)
        node_pods = pods.NodePods(client, node_name=node_name, beats=beats)
        collector = kube.Collector(
            "agent",
            watches=(ordered.watch, node_pods.watch),
            recorder=recorder,
            asked=client.requests,
        )
        registry.REGISTRY.register(collector)
        parts = (recorder, ordered.watch, reports, node_pods.watch)
        running = [tasks.create_task(part.run()) for part in parts]
        try:
            yield seams.Outside(specs=ordered, pods=node_pods, reporter=reports)
        finally:
            registry.REGISTRY.unregister(collector)
            for task in running:
                task.cancel()

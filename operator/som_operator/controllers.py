"""The controllers as one thing: three queues over one fleet.

Caches are kept from the beginning, in the leader and in those who would follow it. Decisions and
writes happen in `run` alone, so that an election can start and end them; each `run` begins with
what the caches say, and with nothing that an earlier one had seen.
"""

import asyncio
from typing import Final, NoReturn

from prometheus_client import registry

from som_api import kube
from som_api.run import clock, heartbeats, workqueue
from som_operator import metrics, node_events
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.loading.driver import Driver
from som_operator.node_controller import NodeController
from som_operator.overview import Overview
from som_operator.pool_controller import PoolController
from som_operator.statuses import Statuses
from som_operator.survey import Survey

NODE_WORKERS: Final = 8


class Controllers:
    """Everything that the operator does in a cluster; what it counts goes to `collected`.

    Writes go by `client`, which an election may fence.
    """

    def __init__(
        self,
        client: kube.Client,
        recorder: kube.Recorder,
        *,
        agent_namespace: str,
        collected: registry.CollectorRegistry,
        driver: Driver | None = None,
        beats: heartbeats.Heartbeats | None = None,
        time: clock.Clock,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._driver = driver
        self._time = time
        self._measure = metrics.Reconciles(collected)
        self._fleet_metrics = metrics.FleetCollector()
        nodes_due, pools_due, surveys_due = self._queues = [
            workqueue.WorkQueue[str](name=name, beats=beats, time=time)
            for name in ("node", "pool", "survey")
        ]
        self.fleet = Fleet(
            client,
            agent_namespace=agent_namespace,
            nodes_due=nodes_due,
            pools_due=pools_due,
            surveys_due=surveys_due,
            beats=beats,
            time=time,
        )
        collected.register(self._fleet_metrics)
        collected.register(
            kube.Collector(
                "operator",
                watches=self.fleet.watches,
                queues=self._queues,
                recorder=recorder,
                asked=client.requests,
            )
        )

    async def run(self) -> NoReturn:
        """Reconcile until cancelled, once all caches are complete."""
        client, fleet, recorder, time = self._client, self.fleet, self._recorder, self._time
        nodes_due, pools_due, surveys_due = self._queues
        overview, agents = Overview(), Agents(time=time)
        events = node_events.NodeEvents(recorder, time=time)
        survey = Survey(fleet, overview, agents, events, pools_due=pools_due)
        nodes = NodeController(
            client, fleet, survey, agents, events, Statuses(client, time=time), self._driver
        )
        pools = PoolController(
            client=client,
            fleet=fleet,
            survey=survey,
            overview=overview,
            agents=agents,
            recorder=recorder,
            statuses=Statuses(client, time=time),
            time=time,
        )

        async def look(name: str) -> None:
            try:
                is_due = nodes.look(name)
            except Exception:
                # The node's own reconcile fails by it, too, is counted, and is tried again.
                is_due = True
            if is_due:
                # Not behind all the nodes that an edit of a pool concerns.
                nodes_due.add(name, urgent=True)

        await fleet.wait_synced()
        fleet.everything_due()
        with self._fleet_metrics.of(fleet, overview, agents):
            await survey.complete()
            # All nodes are planned and due: what made them so before was not just now.
            surveys_due.clear()
            async with asyncio.TaskGroup() as tasks:
                reconcile = self._measure("node", nodes.reconcile)
                tasks.create_task(nodes_due.run(reconcile, workers=NODE_WORKERS))
                tasks.create_task(pools_due.run(self._measure("pool", pools.reconcile)))
                # How pools stand does not wait for what nodes are still to be told.
                tasks.create_task(surveys_due.run(look))
        raise AssertionError("queues run for ever")

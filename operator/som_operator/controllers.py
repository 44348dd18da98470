"""The controllers as one thing: three queues over one fleet.

Caches are kept from the beginning. Decisions and writes happen in `run` alone, so that an
election can start and end them.
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
    """Everything that the operator does in a cluster; what it counts goes to `collected`."""

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
        self._measure = metrics.Reconciles(collected)
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
        overview, agents = Overview(), Agents(time=time)
        events = node_events.NodeEvents(recorder, time=time)
        self._survey = Survey(self.fleet, overview, agents, events, pools_due=pools_due)
        self._nodes = NodeController(
            client,
            self.fleet,
            self._survey,
            agents,
            events,
            Statuses(client, time=time),
            driver,
        )
        self._pools = PoolController(
            client=client,
            fleet=self.fleet,
            survey=self._survey,
            overview=overview,
            agents=agents,
            recorder=recorder,
            statuses=Statuses(client, time=time),
            time=time,
        )
        collected.register(metrics.FleetCollector(self.fleet, overview, agents))
        collected.register(
            kube.Collector(
                "operator", watches=self.fleet.watches, queues=self._queues, recorder=recorder
            )
        )

    async def run(self) -> NoReturn:
        """Reconcile until cancelled, once all caches are complete."""
        await self.fleet.wait_synced()
        await self._survey.complete()
        nodes_due, pools_due, surveys_due = self._queues
        nodes = self._measure("node", self._nodes.reconcile)
        pools = self._measure("pool", self._pools.reconcile)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(nodes_due.run(nodes, workers=NODE_WORKERS))
            tasks.create_task(pools_due.run(pools))
            # How pools stand does not wait for what nodes are still to be told.
            tasks.create_task(surveys_due.run(self._look))
        raise AssertionError("queues run for ever")

    async def _look(self, name: str) -> None:
        self._survey.node(name)

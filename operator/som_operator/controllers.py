"""The controllers as one thing: three queues over one fleet.

Caches are kept from the beginning. Decisions and writes happen in `run` alone, so that an
election can start and end them.
"""

import asyncio
import logging
from typing import Final, NoReturn

from som_api import kube
from som_api.run import clock, heartbeats, workqueue
from som_operator import metrics
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.node_controller import NodeController
from som_operator.overview import Overview
from som_operator.pool_controller import STATUS_EVERY_S, PoolController

_log = logging.getLogger(__name__)

NODE_WORKERS: Final = 8
NODES_AT_ONCE: Final = 100
"""Plans between two turns of the event loop: a fleet of them takes longer than a probe waits."""


class Controllers:
    """Everything that the operator does in a cluster."""

    def __init__(
        self,
        client: kube.Client,
        recorder: kube.Recorder,
        *,
        agent_namespace: str,
        measure: metrics.Reconciles,
        beats: heartbeats.Heartbeats | None = None,
        time: clock.Clock,
    ) -> None:
        self.overview = Overview()
        self.agents = Agents(time=time)
        self._node_queue = workqueue.WorkQueue[str](
            measure("node", self._reconcile_node),
            name="node",
            workers=NODE_WORKERS,
            beats=beats,
            time=time,
        )
        self._pool_queue = workqueue.WorkQueue[str](
            measure("pool", self._reconcile_pool), name="pool", beats=beats, time=time
        )
        # Plans without writes: how pools stand does not wait for what nodes are still to be told.
        self._survey_queue = workqueue.WorkQueue[str](
            self._survey_node, name="survey", beats=beats, time=time
        )
        self.queues = (self._node_queue, self._pool_queue, self._survey_queue)
        self.fleet = Fleet(
            client,
            agent_namespace=agent_namespace,
            nodes_due=self._node_queue,
            pools_due=self._pool_queue,
            surveys_due=self._survey_queue,
            beats=beats,
            time=time,
        )
        self._nodes = NodeController(
            client,
            self.fleet,
            self.overview,
            recorder,
            self.agents,
            pool_changed=self._pool_changed,
            time=time,
        )
        self._pools = PoolController(
            client,
            self.fleet,
            self.overview,
            recorder,
            survey=self._survey,
            lost_agents=lambda: self.agents.lost,
            time=time,
        )

    async def run(self) -> NoReturn:
        """Reconcile until cancelled, once all caches are complete."""
        await self.fleet.wait_synced()
        await self._survey()
        async with asyncio.TaskGroup() as tasks:
            for queue in self.queues:
                tasks.create_task(queue.run())
        raise AssertionError("queues run for ever")

    async def _survey(self) -> None:
        """Plan all nodes: a pool's status is about all of them or about none."""
        for count, node in enumerate(list(self.fleet.nodes.values())):
            if count % NODES_AT_ONCE == 0:
                await asyncio.sleep(0)
            # It may have changed, or gone, meanwhile.
            if (node_now := self.fleet.node(node.name)) is not None:
                try:
                    self._nodes.survey(node_now)
                except Exception:
                    # That node's own reconcile fails by it, is counted, and is tried again.
                    _log.exception("a node cannot be planned", extra={"node": node.name})
                    self._node_queue.add(node.name)

    async def _survey_node(self, name: str) -> None:
        if (node := self.fleet.node(name)) is not None:
            self._nodes.survey(node)

    def _pool_changed(self, name: str) -> None:
        self._pool_queue.add_after(name, STATUS_EVERY_S)

    async def _reconcile_node(self, name: str) -> float | None:
        return await self._nodes.reconcile(name)

    async def _reconcile_pool(self, name: str) -> float | None:
        return await self._pools.reconcile(name)

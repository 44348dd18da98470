"""Keeps one SomPool's status, its finalizer and its Events."""

import logging
from collections.abc import Awaitable, Callable, Set
from typing import Final

from som_api import kube, v1alpha1
from som_api.run import clock
from som_operator import pool_status, pools, statuses
from som_operator.fleet import Fleet
from som_operator.shares import Shares

_log = logging.getLogger(__name__)

RELEASE_CHECK_S: Final = 5.0
STATUS_EVERY_S: Final = 1.0
"""A status tells of many nodes: what changes within this time makes one write."""


class PoolController:
    """Reconciles pools by name. `survey` plans all nodes again; see `reconcile`."""

    def __init__(
        self,
        client: kube.Client,
        fleet: Fleet,
        shares: Shares,
        recorder: kube.Recorder,
        *,
        survey: Callable[[], Awaitable[None]],
        lost_agents: Callable[[], Set[str]],
        time: clock.Clock,
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._shares = shares
        self._recorder = recorder
        self._survey = survey
        self._lost_agents = lost_agents
        self._statuses = statuses.Statuses[v1alpha1.SomPoolStatus](client, time=time)
        self._surveyed: pools.Orders | None = None
        self._time = time
        self._next_write_s: dict[str, float] = {}

    async def reconcile(self, name: str) -> float | None:
        """Make finalizer and status of the pool what they should be. Raises KubeError.

        Returns the seconds after which to look again: the end of a release can depend on nodes
        where the pool has no share any more.
        """
        while self._surveyed is not (orders := self._fleet.orders):
            # A status about this generation must not rest on plans for the last one.
            await self._survey()
            self._surveyed = orders
        pool, order = self._fleet.pool(name), self._fleet.orders.by_name.get(name)
        if pool is None or order is None:
            self._statuses.forget(name)
            self._next_write_s.pop(name, None)
            await self._ask_whether_gone(name)
        elif not pool.metadata.deletion_timestamp and not _is_held(pool):
            await self._set_finalizers(pool, [*pool.metadata.finalizers, pools.FINALIZER])
        elif order.standing is pools.Standing.RELEASED and _is_held(pool) and self._is_free(name):
            rest = [other for other in pool.metadata.finalizers if other != pools.FINALIZER]
            await self._set_finalizers(pool, rest)
            message = "no node has memory of the pool any more"
            self._recorder.emit(_reference(pool), reason="Released", message=message)
        else:
            left_s = self._next_write_s.get(name, 0.0) - self._time.monotonic()
            if left_s > 0:
                return left_s
            await self._publish(pool, order)
            return RELEASE_CHECK_S if pool.metadata.deletion_timestamp else None
        return None

    async def _publish(self, pool: v1alpha1.SomPool, order: pools.Order) -> None:
        name = pool.metadata.name
        if await self._statuses.publish(
            _reference(pool),
            self._recorder,
            version=pool.metadata.resource_version,
            current=pool.status,
            wanted=pool_status.pool_status(order, self._shares.of_pool(name)),
        ):
            self._next_write_s[name] = self._time.monotonic() + STATUS_EVERY_S

    def _is_free(self, name: str) -> bool:
        return not pool_status.holders(
            name,
            nodes=self._fleet.nodes,
            somnodes=self._fleet.somnodes,
            lost_agents=self._lost_agents(),
        )

    async def _ask_whether_gone(self, name: str) -> None:
        """A pool that is in no list, but on nodes, leaves them only if it is certain to be gone."""
        is_known = self._fleet.orders.standing(name) is pools.Standing.RELEASED
        if is_known or not self._shares.of_pool(name):
            return
        try:
            await self._client.get(kube.SOMPOOLS.path(name=name))
        except kube.KubeError as error:
            if error.status != 404:
                raise
            self._fleet.is_gone(name)

    async def _set_finalizers(self, pool: v1alpha1.SomPool, finalizers: list[str]) -> None:
        version = pool.metadata.resource_version
        await self._client.json_patch(
            kube.SOMPOOLS.path(name=pool.metadata.name),
            [
                {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
            ],
        )
        _log.info("pool held", extra={"pool": pool.metadata.name, "finalizers": finalizers})


def _is_held(pool: v1alpha1.SomPool) -> bool:
    return pools.FINALIZER in pool.metadata.finalizers


def _reference(pool: v1alpha1.SomPool) -> kube.ObjectRef:
    return kube.ObjectRef(kube.SOMPOOLS, pool.metadata.name, uid=pool.metadata.uid)

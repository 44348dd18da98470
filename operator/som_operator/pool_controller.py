"""Keeps one SomPool's status, its finalizer and its Events."""

import dataclasses
import logging
from typing import Final

from som_api import kube, v1alpha1
from som_api.plan import pool_status, standing
from som_api.run import clock
from som_operator.agents import Agents
from som_operator.fleet import Fleet
from som_operator.overview import Overview
from som_operator.statuses import Statuses
from som_operator.survey import STATUS_EVERY_S, Survey

_log = logging.getLogger(__name__)

RELEASE_CHECK_S: Final = 5.0


@dataclasses.dataclass(frozen=True)
class PoolController:
    """Reconciles pools by name."""

    client: kube.Client
    fleet: Fleet
    survey: Survey
    overview: Overview
    agents: Agents
    recorder: kube.Recorder
    statuses: Statuses[v1alpha1.SomPoolStatus]
    time: clock.Clock
    _next_write_s: dict[str, float] = dataclasses.field(default_factory=dict, init=False)

    async def reconcile(self, name: str) -> float | None:
        """Make finalizer and status of the pool what they should be. Raises KubeError.

        Returns the seconds after which to look again: the end of a release can depend on nodes
        where the pool is no longer.
        """
        # A status about this generation must not rest on plans for the last one.
        await self.survey.complete()
        sompool, pool = self.fleet.sompool(name), self.fleet.pools.by_name.get(name)
        if sompool is None or pool is None:
            self.statuses.forget(name)
            self._next_write_s.pop(name, None)
            await self._ask_whether_gone(name)
        elif not sompool.metadata.deletion_timestamp and not _is_held(sompool):
            await self._set_finalizers(sompool, [*sompool.metadata.finalizers, standing.FINALIZER])
        elif (
            pool.standing is standing.Standing.RELEASED
            and _is_held(sompool)
            and self._is_free(name)
        ):
            rest = [other for other in sompool.metadata.finalizers if other != standing.FINALIZER]
            await self._set_finalizers(sompool, rest)
            message = "no node has memory of the pool any more"
            self.recorder.emit(_reference(sompool), reason="Released", message=message)
        else:
            left_s = self._next_write_s.get(name, 0.0) - self.time.monotonic()
            if left_s > 0:
                return left_s
            await self._publish(sompool, pool)
            return RELEASE_CHECK_S if sompool.metadata.deletion_timestamp else None
        return None

    async def _publish(self, sompool: v1alpha1.SomPool, pool: standing.Pool) -> None:
        name = sompool.metadata.name
        if await self.statuses.publish(
            _reference(sompool),
            self.recorder,
            version=sompool.metadata.resource_version,
            current=sompool.status,
            wanted=pool_status.pool_status(pool, self.overview.of_pool(name)),
        ):
            self._next_write_s[name] = self.time.monotonic() + STATUS_EVERY_S

    def _is_free(self, name: str) -> bool:
        return not pool_status.holders(
            name,
            nodes=self.fleet.nodes,
            somnodes=self.fleet.somnodes,
            lost_agents=self.agents.lost,
        )

    async def _ask_whether_gone(self, name: str) -> None:
        """A pool that is in no list, but on nodes, leaves them only if it is certain to be gone."""
        is_known = self.fleet.pools.standing(name) is standing.Standing.RELEASED
        if is_known or not self.overview.of_pool(name).on_nodes:
            return
        try:
            await self.client.get(kube.SOMPOOLS.path(name=name))
        except kube.KubeError as error:
            if error.status != 404:
                raise
            self.fleet.is_gone(name)

    async def _set_finalizers(self, sompool: v1alpha1.SomPool, finalizers: list[str]) -> None:
        version = sompool.metadata.resource_version
        await self.client.json_patch(
            kube.SOMPOOLS.path(name=sompool.metadata.name),
            [
                {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
            ],
        )
        _log.info("pool held", extra={"pool": sompool.metadata.name, "finalizers": finalizers})


def _is_held(sompool: v1alpha1.SomPool) -> bool:
    return standing.FINALIZER in sompool.metadata.finalizers


def _reference(sompool: v1alpha1.SomPool) -> kube.ObjectRef:
    return kube.ObjectRef(kube.SOMPOOLS, sompool.metadata.name, uid=sompool.metadata.uid)

"""The agent's reports: the SomNode's status, and Events on the Node.

Only the newest status counts. It is written when it differs from what the API server has, at most
once in `COALESCE_S` (jittered), and again after the server was away or somebody changed it.
"""

import datetime
import logging
import random
from typing import Final, NoReturn

from som_api import kube, v1alpha1
from som_api.run import backoff, clock
from som_device_plugin import seams
from som_device_plugin.cluster import orders

FIELD_MANAGER: Final = "som-agent"
COALESCE_S: Final = (0.5, 2.0)

_log = logging.getLogger(__name__)


class StatusReporter:
    """`seams.Reporter` by the API server; `run` writes what `report` was given last.

    Compares with the SomNode as `ordered` has it, again whenever that has changed.
    """

    def __init__(
        self,
        client: kube.Client,
        recorder: kube.Recorder,
        *,
        node_name: str,
        ordered: orders.NodeOrders,
        time: clock.Clock | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._target = kube.ObjectRef(kube.SOMNODES, node_name)
        self._node = kube.node_ref(node_name)
        self._ordered = ordered
        self._time = time or clock.SystemClock()
        self._jitter = jitter or random.Random()
        self._wanted: v1alpha1.SomNodeStatus | None = None
        self._due = ordered.changed.listen()

    async def report(self, status: v1alpha1.SomNodeStatus) -> None:
        """Have `status` published; transition times are added here."""
        if status != self._wanted:
            self._wanted = status
            self._due.set()

    async def event(self, event: seams.Event) -> None:
        """Have `event` put on the Node."""
        self._recorder.emit(
            self._node, reason=event.reason, message=event.message, warning=event.warning
        )

    async def run(self) -> NoReturn:
        """Write until cancelled; a server that is away is outlived."""
        pauses = backoff.Backoff(jitter=self._jitter)
        while True:
            await self._due.wait()
            await self._time.sleep(self._jitter.uniform(*COALESCE_S))
            self._due.clear()
            try:
                await self._write()
                pauses.reset()
            except Exception as error:
                pause_s = pauses.next_s()
                # What the server answered needs no traceback; anything else is a mistake of ours.
                trace = None if isinstance(error, kube.KubeError) else error
                _log.warning(
                    "status not reported (%r); again in %.1f s", error, pause_s, exc_info=trace
                )
                await self._time.sleep(pause_s)
                self._due.set()

    async def _write(self) -> None:
        observed = self._ordered.observed
        if self._wanted is None or observed is None:
            return
        now = self._time.now()
        wanted = (
            _without_orders(self._wanted, observed.problem) if observed.problem else self._wanted
        )
        await kube.publish(
            self._client,
            self._recorder,
            self._target,
            current=observed.status,
            wanted=_with_times(wanted, observed.status, now=now),
            field_manager=FIELD_MANAGER,
            now=now,
            about=self._node,
        )


def _without_orders(wanted: v1alpha1.SomNodeStatus, problem: str) -> v1alpha1.SomNodeStatus:
    """`wanted` of a node whose orders its agent cannot read."""
    message = (
        f"the orders cannot be read and what was ordered before stands: {problem[:500]}; "
        "is the agent older than the operator? Then its update cures this"
    )
    ready = v1alpha1.Condition(
        type="Ready", status="False", reason="OrdersUnreadable", message=message
    )
    others = tuple(condition for condition in wanted.conditions if condition.type != "Ready")
    return wanted.model_copy(update={"conditions": (ready, *others)})


def _with_times(
    wanted: v1alpha1.SomNodeStatus,
    current: v1alpha1.SomNodeStatus,
    *,
    now: datetime.datetime,
) -> v1alpha1.SomNodeStatus:
    """`wanted` with the transition times of its pools' conditions."""
    before = {pool.name: pool.conditions for pool in current.pools}
    pools = tuple(
        pool.model_copy(
            update={"conditions": kube.merge(before.get(pool.name, ()), pool.conditions, now=now)}
        )
        for pool in wanted.pools
    )
    return wanted.model_copy(update={"pools": pools})

"""Which nodes have lost their agent, and the condition of the SomNode that says so.

Without its agent a node starts no container with som memory and gives none back, while kubelet and
the capacity in node status look well. Agents come and go with every upgrade, so one is lost only
when it has not been ready for `LOST_AFTER_S`; what the SomNode says about it outlives a restart of
the operator. While kubelet is not ready, nothing is known about the agent.
"""

import math
from collections.abc import Set
from typing import Final

from som_api import v1alpha1
from som_api.plan import observed
from som_api.run import clock

CONDITION: Final = "AgentReady"
LOST_AFTER_S: Final = 60.0
_READY: Final = v1alpha1.Condition(type=CONDITION, status="True", reason="AgentReady")


class Agents:
    """Since when which node's agent is not ready."""

    def __init__(self, *, time: clock.Clock) -> None:
        self._time = time
        self._since_s: dict[str, float] = {}
        self._lost: set[str] = set()

    def look(
        self, node: observed.Node, bound: observed.BoundPods, somnode: v1alpha1.SomNode | None
    ) -> bool:
        """Note how the agent of `node` is; return whether it is lost."""
        self._lost.discard(node.name)
        if bound.agent_ready or not node.ready:
            self._since_s.pop(node.name, None)
            return False
        self._since_s.setdefault(node.name, self._time.monotonic())
        told = _told(somnode)
        if (told is not None and told.status == "False") or not self.left_s(node.name):
            self._lost.add(node.name)
        return node.name in self._lost

    def left_s(self, node: str) -> float:
        """Seconds until the agent of `node` is lost: 0 if it is, infinity if it is well."""
        since_s = self._since_s.get(node)
        if since_s is None:
            return math.inf
        if node in self._lost:
            return 0.0
        return max(0.0, since_s + LOST_AFTER_S - self._time.monotonic())

    @property
    def lost(self) -> Set[str]:
        """The nodes whose agent is lost, by the last `look`."""
        return self._lost

    def forget(self, node: str) -> None:
        """The node is gone."""
        self._since_s.pop(node, None)
        self._lost.discard(node)


def condition(
    bound: observed.BoundPods, somnode: v1alpha1.SomNode, *, lost: bool
) -> v1alpha1.Condition | None:
    """The condition of the node's SomNode; None where nothing has to be said yet."""
    if lost:
        reason = "AgentNotReady" if bound.runs_agent else "AgentMissing"
        return v1alpha1.Condition(
            type=CONDITION, status="False", reason=reason, message=detail(bound)
        )
    told = _told(somnode)
    # An agent that is well from the beginning is told with its first report.
    if bound.agent_ready and (told or somnode.status.observed_generation is not None):
        return _READY
    return told


def detail(bound: observed.BoundPods) -> str:
    """What is the matter with an agent that is lost, and what to do."""
    if bound.runs_agent:
        return "the agent's pod is not ready; see its log, and kubectl describe it"
    return "no agent runs here; compare the node's labels and taints with the DaemonSet som-agent"


def _told(somnode: v1alpha1.SomNode | None) -> v1alpha1.Condition | None:
    conditions = somnode.status.conditions if somnode else ()
    return next((told for told in conditions if told.type == CONDITION), None)

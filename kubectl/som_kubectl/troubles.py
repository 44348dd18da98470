"""Which conditions are not as they should be, and what is the matter: found, not explained."""

import dataclasses
from typing import Final

from som_api import v1alpha1
from som_api.plan import observed
from som_kubectl import cluster

GOOD: Final = {
    "Ready": "True",
    "AgentReady": "True",
    "DriverLoaded": "True",
    "Blocked": "False",
    "Degraded": "False",
    "PodsUnlimited": "False",
    "RuntimeUnfit": "False",
    "BooksPending": "False",
}
"""What a SomNode's conditions are when all is well, the gravest first after Ready."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """Something about an object that is not as it should be: `said` is its own message."""

    kind: str
    name: str
    condition: str
    reason: str
    said: str


def of_pool(sompool: v1alpha1.SomPool) -> list[Trouble]:
    """Why a pool is not Ready; empty if it is."""
    name = sompool.metadata.name
    ready = cluster.condition(sompool.status.conditions, "Ready")
    if ready is None:
        return [Trouble("pool", name, "Ready", "NotSeen", "its status is empty")]
    if ready.status == "True":
        return []
    return [Trouble("pool", name, "Ready", ready.reason, ready.message)]


def of_node(
    name: str, somnode: cluster.SomNode | None, kubelet: observed.Node | None
) -> list[Trouble]:
    """What is the matter with a node, its cause before what follows from it."""
    if somnode is None:
        return [Trouble("node", name, "", "NoSomNode", "no pool matches it")] if kubelet else []
    if isinstance(somnode, observed.UnreadableSomNode):
        return [Trouble("node", name, "", "Unreadable", somnode.problem)]
    found = list[Trouble]()
    if kubelet is None:
        found.append(Trouble("node", name, "", "NoNode", "there is no Node of this name"))
    elif not kubelet.ready:
        found.append(Trouble("node", name, "", "KubeletNotReady", "kubelet does not report"))
    if not somnode.status.conditions:
        found.append(Trouble("node", name, "", "NoReport", "no agent has reported"))
    told = {each.type: each for each in somnode.status.conditions}
    for kind in (*(kind for kind in GOOD if kind != "Ready"), "Ready"):
        each = told.get(kind)
        if each is not None and each.status != GOOD[kind]:
            found.append(Trouble("node", name, kind, each.reason, each.message))
    return found

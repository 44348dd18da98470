"""A fleet of any size for the fleet API and the page: deterministic, and changing on demand.

Its names are such as users may choose. Agents of `slow` nodes never answer, those of `dead` nodes
say at once that they cannot be had.
"""

import asyncio
from collections.abc import Sequence

from som_api import leases, v1alpha1
from som_api.web import fleet

GIB = 2**30
NAMESPACES = ("shop", "kube-system", "x" * 63, "default")
HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}\u202e"
"""Such text can stand in messages, labels and container images, but in no name of Kubernetes."""


class FakeFleet:
    """`nodes` nodes, all in pool `databases`, every third in pool `gen-2.scratch`, too."""

    def __init__(self, nodes: int = 3, *, leases_per_node: int = 2) -> None:
        self.changes = fleet.Changes()
        self.synced = True
        self.pools = {name: _pool(name, nodes) for name in ("databases", "gen-2.scratch")}
        self.slow: set[str] = set()
        self.dead: set[str] = set()
        self.asked: list[str] = []
        self._leases_per_node = leases_per_node
        self._nodes = {name: _node(name, number) for number, name in enumerate(_names(nodes))}
        self._events: list[fleet.Event] = []
        for name in self.node_names()[:3]:
            self.event("Node", name, "PartlyReserved", f"pool databases: {HOSTILE}", warning=True)

    def node_names(self) -> Sequence[str]:
        return sorted(self._nodes)

    def node(self, name: str) -> fleet.Node | None:
        return self._nodes.get(name)

    def events(self) -> Sequence[fleet.Event]:
        return self._events[::-1]

    def nodes_with_leases(self, namespace: str) -> Sequence[str]:
        there = namespace in ("", *NAMESPACES)
        return self.node_names() if there and self._leases_per_node else ()

    async def leases_of(self, node: str) -> Sequence[leases.Lease]:
        self.asked.append(node)
        if node in self.slow:
            await asyncio.Event().wait()
        if node in self.dead:
            raise fleet.AgentSilent(f"connection refused {HOSTILE}")
        return [self._lease(node, number) for number in range(self._leases_per_node)]

    def set_ready(self, name: str, *, kubelet: bool = True, agent: bool = True) -> None:
        """Kubelet or agent of a node come or go."""
        self._nodes[name] = fleet.Node(self._nodes[name].somnode, kubelet, agent)
        self.changes.note("node", name)

    def allocate(
        self, name: str, allocated_bytes: int, *, whole_free_bytes: int | None = None
    ) -> None:
        """Containers of the node hold so much of pool `databases` now."""
        old = self._nodes[name]
        first, *others = old.somnode.status.pools
        free_bytes = first.capacity - allocated_bytes
        update = {"allocated": allocated_bytes, "free": free_bytes, "whole_free": whole_free_bytes}
        first = first.model_copy(update=update)
        status = old.somnode.status.model_copy(update={"pools": (first, *others)})
        somnode = old.somnode.model_copy(update={"status": status})
        self._nodes[name] = fleet.Node(somnode, old.kubelet_ready, old.agent_ready)
        self.changes.note("node", name)

    def add(self, name: str) -> None:
        """A node joins."""
        self._nodes[name] = _node(name, len(self._nodes))
        self.changes.note("node", name)

    def remove(self, name: str) -> None:
        """The node is gone."""
        del self._nodes[name]
        self.changes.note("node", name)

    def event(
        self, kind: str, name: str, reason: str, message: str, *, warning: bool = False
    ) -> None:
        """Something happened."""
        number = len(self._events)
        moment = f"2026-11-28T16:{number // 60 % 60:02}:{number % 60:02}Z"
        self._events.append(
            fleet.Event(
                id=f"{name}.{number:016x}",
                kind=kind,
                name=name,
                type="Warning" if warning else "Normal",
                reason=reason,
                message=message,
                component="som-agent",
                count=1,
                first=moment,
                last=moment,
            )
        )
        self.changes.note("event", f"{name}.{number:016x}")

    def _lease(self, node: str, number: int) -> leases.Lease:
        namespace = NAMESPACES[number % len(NAMESPACES)]
        state: leases.State = "Releasing" if number % 7 == 6 else "Delivered"
        return leases.Lease(
            lease=f"{number:016x}",
            start=1,
            namespace=namespace,
            pod=f"pod-{number}.of.{node}"[:253],
            uid=f"{number}-{node}"[:64],
            container=f"c-{number}",
            pool="databases",
            driver="HugeTLBFS",
            unit="2Mi",
            size_bytes=(number + 1) * GIB,
            state=state,
            since=f"2026-11-{number % 28 + 1:02}T12:00:00Z",
        )


def _names(nodes: int) -> list[str]:
    """One is as long as a name can be."""
    return [f"node-{number:04}" for number in range(nodes - 1)] + ["n." + "z" * 251][:nodes]


def _condition(kind: str, *, holds: bool, reason: str, message: str) -> v1alpha1.Condition:
    return v1alpha1.Condition(
        type=kind,
        status="True" if holds else "False",
        reason=reason,
        message=message,
        last_transition_time="2026-11-28T12:00:00Z",
    )


def _pool(name: str, nodes: int) -> v1alpha1.SomPool:
    is_ready = name == "databases"
    return v1alpha1.SomPool.model_validate(
        {
            "metadata": {"name": name, "uid": f"uid-of-{name}", "generation": 1},
            "spec": {"unit": "2Mi", "capacity": "64Gi", "source": {"hugeTLB": {"pageSize": "2Mi"}}},
            "status": {
                "observedGeneration": 1,
                "nodes": {"matched": nodes, "ready": nodes},
                "capacity": f"{64 * nodes}Gi",
                "allocated": f"{3 * nodes}Gi",
                "conditions": [
                    _condition(
                        "Ready",
                        holds=is_ready,
                        reason="Reserved" if is_ready else "PartlyReserved",
                        message="" if is_ready else HOSTILE,
                    ).model_dump()
                ],
            },
        }
    )


def _node(name: str, number: int) -> fleet.Node:
    pools = ["databases", *(["gen-2.scratch"] if number % 3 == 0 else [])]
    is_short = number % 10 == 9
    statuses = [
        {
            "name": pool,
            "generation": 1,
            "unit": "2Mi",
            "capacity": "32Gi" if is_short else "64Gi",
            "allocated": "3Gi",
            "free": "29Gi" if is_short else "61Gi",
            "numa": [{"node": 0, "capacity": "32Gi"}]
            + ([] if is_short else [{"node": 1, "capacity": "32Gi"}]),
            "conditions": [
                _condition(
                    "Ready",
                    holds=not is_short,
                    reason="PartlyReserved" if is_short else "Reserved",
                    message=f"32Gi of 64Gi: {HOSTILE}" if is_short else "64Gi reserved",
                ).model_dump()
            ],
        }
        for pool in pools
    ]
    orders = [
        {
            "name": pool,
            "generation": 1,
            "unit": "2Mi",
            "capacity": "64Gi",
            "source": {"hugeTLB": {"pageSize": "2Mi"}},
        }
        for pool in pools
    ]
    somnode = v1alpha1.SomNode.model_validate(
        {
            "metadata": {"name": name, "uid": f"uid-of-{name}"[:100], "generation": 1},
            "spec": {"pools": orders},
            "status": {
                "observedGeneration": 1,
                "bootID": f"00000000-0000-0000-0000-{number:012}",
                "kernelVersion": "6.12.57+deb13-amd64",
                "agentVersion": "0.1.0",
                "memory": "256Gi",
                "pools": statuses,
                "hugePages": [{"pageSize": "2Mi", "total": "130Gi", "pools": "128Gi"}],
                "conditions": [
                    _condition(
                        "Degraded",
                        holds=number % 50 == 7,
                        reason="LeaseHeld" if number % 50 == 7 else "AsExpected",
                        message=HOSTILE if number % 50 == 7 else "",
                    ).model_dump()
                ],
            },
        }
    )
    return fleet.Node(somnode, kubelet_ready=number % 100 != 42, agent_ready=True)

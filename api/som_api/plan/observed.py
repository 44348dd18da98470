"""What the operator needs to know of Nodes and Pods, decoded from the API server's objects.

Nodes and Pods are the bulk of a cluster's memory in any controller: only these few fields are
kept, and of Pods only those that hold som memory or run the agent.
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from som_api import v1alpha1

UNITS: Final[tuple[v1alpha1.Unit, ...]] = tuple(v1alpha1.UNIT_BYTES)
PAGE_SIZES: Final[tuple[v1alpha1.PageSize, ...]] = get_args(v1alpha1.PageSize)
AGENT_LABELS: Final = {
    "app.kubernetes.io/name": "som",
    "app.kubernetes.io/component": "agent",
}

Units = Mapping[v1alpha1.Unit, int]
"""How many of each unit; an absent unit is 0."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A Node: `ready` is kubelet's own condition, `units` the som capacity in node status.

    `capacity` is the same as it is written there, by resource name: 1000 units are `1k`. It is None
    until kubelet has counted what the node has at all.
    `memory_bytes` and, by page size, `huge_pages` are what kubelet counted when it started.
    `runtime` is the container runtime and its version, as `containerd://2.0.0`.
    """

    name: str
    uid: str
    labels: Mapping[str, str]
    boot_id: str
    ready: bool
    units: Units
    memory_bytes: int
    huge_pages: Mapping[v1alpha1.PageSize, int]
    runtime: str
    capacity: Mapping[str, str] | None = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """A Pod that is bound to a node and has not ended: the units it holds, or the agent itself.

    `agent_ready` is the agent's own readiness, and False for every other Pod; `agent_ip` is its
    address, and "" for every other.
    """

    node: str
    units: Units
    is_agent: bool
    agent_ready: bool = False
    agent_ip: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class UnreadableSomPool:
    """A SomPool of which nothing is known but its name: it is frozen, as one that is unknown.

    Its last orders do not stand, because they are no longer the admin's.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class UnreadableSomNode:
    """A SomNode that does not say what it should; it holds the pools that it names all the same."""

    pools: frozenset[str]
    problem: str


@dataclasses.dataclass(frozen=True, slots=True)
class BoundPods:
    """What the Pods of one node say together."""

    units: Units
    runs_agent: bool
    agent_ready: bool = False


def decode_node(item: Mapping[str, Any]) -> Node:
    """The Node of an object of the API server."""
    metadata, status = item["metadata"], item.get("status", {})
    conditions = status.get("conditions", ())
    capacity = status.get("capacity", {})
    names = [name for name in map(v1alpha1.resource_name, UNITS) if name in capacity]
    return Node(
        name=metadata["name"],
        uid=metadata["uid"],
        # 5 000 nodes share most of their labels: interned, each is kept once.
        labels={
            sys.intern(key): sys.intern(value) for key, value in metadata.get("labels", {}).items()
        },
        boot_id=status.get("nodeInfo", {}).get("bootID", ""),
        ready=_is_ready(conditions),
        units=_units(capacity),
        memory_bytes=_count(capacity.get("memory", 0)),
        huge_pages={size: _count(capacity.get(f"hugepages-{size}", 0)) for size in PAGE_SIZES},
        runtime=sys.intern(status.get("nodeInfo", {}).get("containerRuntimeVersion", "")),
        capacity={name: capacity[name] for name in names} if capacity else None,
    )


def decode_pod(item: Mapping[str, Any], *, agent_namespace: str) -> Pod | None:
    """The Pod of an object of the API server, or None where it is of no concern here."""
    metadata, spec = item["metadata"], item["spec"]
    node = spec.get("nodeName")
    if not node or item.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return None
    labels = metadata.get("labels", {})
    is_agent = metadata["namespace"] == agent_namespace and AGENT_LABELS.items() <= labels.items()
    units = _requested(spec)
    if not units and not is_agent:
        return None
    conditions = item.get("status", {}).get("conditions", ())
    agent_ready = is_agent and _is_ready(conditions)
    agent_ip = item.get("status", {}).get("podIP", "") if is_agent else ""
    return Pod(sys.intern(node), units, is_agent, agent_ready, agent_ip)


def bound(pods: Iterable[Pod]) -> BoundPods:
    """The sum of one node's Pods."""
    units: dict[v1alpha1.Unit, int] = {}
    runs_agent = agent_ready = False
    for pod in pods:
        runs_agent |= pod.is_agent
        agent_ready |= pod.agent_ready
        for unit, count in pod.units.items():
            units[unit] = units.get(unit, 0) + count
    return BoundPods(units=units, runs_agent=runs_agent, agent_ready=agent_ready)


def _is_ready(conditions: Iterable[Mapping[str, str]]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _requested(spec: Mapping[str, Any]) -> Units:
    """What kubelet counts for a Pod, as in k8s.io/component-helpers resource.PodRequests.

    Sidecars and app containers add up; a plain init container needs its own beside the sidecars
    that started before it.
    """
    together: dict[v1alpha1.Unit, int] = {}
    highest: dict[v1alpha1.Unit, int] = {}
    for container in spec.get("initContainers", ()):
        is_sidecar = container.get("restartPolicy") == "Always"
        for unit, count in _container_units(container).items():
            beside = together.get(unit, 0) + count
            highest[unit] = max(highest.get(unit, 0), beside)
            if is_sidecar:
                together[unit] = beside
    for container in spec["containers"]:
        for unit, count in _container_units(container).items():
            together[unit] = together.get(unit, 0) + count
    return {
        unit: count for unit in UNITS if (count := max(together.get(unit, 0), highest.get(unit, 0)))
    }


def _container_units(container: Mapping[str, Any]) -> Units:
    resources = container.get("resources", {})
    return _units({**resources.get("limits", {}), **resources.get("requests", {})})


def _units(quantities: Mapping[str, Any]) -> Units:
    found: dict[v1alpha1.Unit, int] = {}
    for unit in UNITS:
        quantity = quantities.get(v1alpha1.resource_name(unit))
        if quantity is not None:
            found[unit] = _count(quantity)
    return found


def _count(quantity: object) -> int:
    # Anybody may write 100E into a Pod; it must not keep the rest of the list from being read.
    try:
        return v1alpha1.parse_bytes(quantity)
    except ValueError:
        return sys.maxsize
